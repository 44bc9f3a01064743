# Saves orders by Active Record, with the hook of examples/hooks/rails: see
# examples_test.go.
require "active_record"
require "logger"
require "redis"

hook, server = ARGV
ENV["LONG_POLL_REDIS"] = server
require hook

ActiveRecord::Base.establish_connection(adapter: "sqlite3", database: ":memory:")
ActiveRecord::Base.logger = Logger.new($stderr, level: Logger::WARN)
ActiveRecord::Schema.verbose = false
ActiveRecord::Schema.define { create_table(:orders) { |t| t.text :status } }

class Order < ActiveRecord::Base
  include LongPoll
  def long_poll_paths = ["/api/orders/#{id}", "/api/orders"]
end

def step(text)
  $stdout.puts(text)
  $stdout.flush
  $stdin.gets
end

Order.transaction do
  Order.create!(id: 1, status: "lost")
  raise ActiveRecord::Rollback
end
order = nil
Order.transaction do
  order = Order.create!(id: 7, status: "packing")
  step("saved")
end
step("committed")
order.destroy!
step("deleted")
Order.create!(id: 8, status: "packing")
puts "without redis"
