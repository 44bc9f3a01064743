# Rails: after each commit, Redis is told which paths have changed, for `wake redis`.
#
# Put it into app/models/concerns/long_poll.rb, and say in each model where it is to be
# seen:
#
#   class Order < ApplicationRecord
#     include LongPoll
#     def long_poll_paths = ["/api/orders/#{id}", "/api/orders"]
#   end
#
# update_all, delete_all and insert_all run no callbacks: call LongPoll.publish after
# these, when the transaction has ended.
module LongPoll
  extend ActiveSupport::Concern

  included { after_commit { LongPoll.publish(*long_poll_paths) } }

  # Has long_poll look at these paths now. Without Redis it does so at the next interval.
  def self.publish(*paths)
    @redis ||= Redis.new(url: ENV.fetch("LONG_POLL_REDIS", "redis://127.0.0.1:6379"), timeout: 1)
    paths.each { |path| @redis.publish("long_poll:#{path}", "") }
  rescue Redis::BaseError => error
    ActiveRecord::Base.logger&.warn("telling redis: #{error.message}")
  end
end
