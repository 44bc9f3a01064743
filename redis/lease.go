package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// Of a resource four keys are kept, all of them of one slot of a cluster:
//
//	lease  <token>:<who>, as long as somebody checks it
//	token  the last one that was given out
//	state  what was read last
//	fault  what the last check has failed with, if it has
func (b *Board) keys(name string) (lease, token, state, fault string) {
	return b.prefix + "lease:" + name, b.prefix + "token:" + name, b.prefix + "state:" + name, b.prefix + "fault:" + name
}

// tokenTime is for how long the last token is kept: much longer than any lease, so that
// who was replaced is known as such.
const tokenTime = 24 * time.Hour

// maxToken bounds the tokens that are given out: there will never be as many. A larger one is
// forged, or nonsense, and it is counted from 1 again, or nobody would ever get a lease more.
const maxToken = 1 << 50

// Claim, Post and Yield are one step each, so that nobody comes between. A lease that has no
// end, which none of us has written, gets one.
var (
	claiming = goredis.NewScript(`
local mine = 0
local lease = redis.call('GET', KEYS[1])
if not lease then
  local token = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
  if token < tonumber(ARGV[2]) then token = tonumber(ARGV[2]) end
  if not (token >= 0 and token < tonumber(ARGV[5])) then token = 0 end
  token = string.format('%.0f', token + 1)
  lease = token .. ':' .. ARGV[1]
  redis.call('SET', KEYS[2], token, 'PX', ARGV[4])
  redis.call('SET', KEYS[1], lease, 'PX', ARGV[3])
  mine = 1
elseif string.sub(lease, -string.len(ARGV[1]) - 1) == ':' .. ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  mine = 1
end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  left = tonumber(ARGV[3])
end
local kept = redis.call('MGET', KEYS[3], KEYS[4])
return {mine, lease, left, kept[1] or '', kept[2] or ''}`)

	posting = goredis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
  redis.call('DEL', KEYS[3])
end
if ARGV[4] ~= '' then redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[2]) end
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1`)

	yielding = goredis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1`)
)

func leaseOf(token uint64, who string) string { return strconv.FormatUint(token, 10) + ":" + who }

// Claim takes the lease of a name, or says who has it.
func (b *Board) Claim(ctx context.Context, name, who string, known uint64, ttl time.Duration) (mine bool, token uint64, left time.Duration, state, fault []byte, err error) {
	lease, tokenKey, stateKey, faultKey := b.keys(name)
	got, err := claiming.Run(ctx, b.link.commands(), []string{lease, tokenKey, stateKey, faultKey}, who, known, ttl.Milliseconds(), tokenTime.Milliseconds(), maxToken).Slice()
	if err = b.judge(err); err != nil {
		return false, 0, 0, nil, nil, err
	}
	if len(got) != 5 {
		return false, 0, 0, nil, nil, errAnswer
	}
	is, _ := got[0].(int64)
	holder, _ := got[1].(string)
	pttl, _ := got[2].(int64)
	st, _ := got[3].(string)
	ft, _ := got[4].(string)
	number, _, _ := strings.Cut(holder, ":")
	if token, err = strconv.ParseUint(number, 10, 64); err != nil {
		return false, 0, 0, nil, nil, errAnswer
	}
	return is == 1, token, time.Duration(pttl) * time.Millisecond, b.opened(name, []byte(st)), b.opened(name, []byte(ft)), nil
}

// errAnswer is of what nobody has written who keeps to the rules.
var errAnswer = errors.New("redis answers with what is no lease")

// Renew has a lease last on. Another one's, which it should not be, lasts on too, once.
func (b *Board) Renew(ctx context.Context, name, who string, token uint64, ttl time.Duration) (mine bool, err error) {
	lease, _, _, _ := b.keys(name)
	got, err := b.link.commands().GetEx(ctx, lease, ttl).Result()
	if errors.Is(err, goredis.Nil) {
		err = nil
	}
	return got == leaseOf(token, who), b.judge(err)
}

// Post keeps what was read, and tells all.
func (b *Board) Post(ctx context.Context, name, who string, token uint64, state, fault []byte, keep time.Duration, message []byte) (mine bool, err error) {
	lease, _, stateKey, faultKey := b.keys(name)
	n, err := posting.Run(ctx, b.link.commands(), []string{lease, stateKey, faultKey},
		leaseOf(token, who), keep.Milliseconds(), text(b.sealed(name, state)), text(b.sealed(name, fault)), b.channel(name), b.sealed(name, message)).Int()
	return n == 1, b.judge(err)
}

// text is data as an argument: none is empty.
func text(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// Keep has what was read be kept on.
func (b *Board) Keep(ctx context.Context, name string, keep time.Duration) (there bool, err error) {
	_, _, stateKey, _ := b.keys(name)
	there, err = b.link.commands().PExpire(ctx, stateKey, keep).Result()
	return there, b.judge(err)
}

// Fetch returns what was read last.
func (b *Board) Fetch(ctx context.Context, name string) (state, fault []byte, err error) {
	_, _, stateKey, faultKey := b.keys(name)
	got, err := b.link.commands().MGet(ctx, stateKey, faultKey).Result()
	if err = b.judge(err); err != nil || len(got) != 2 {
		return nil, nil, err
	}
	st, _ := got[0].(string)
	ft, _ := got[1].(string)
	return b.opened(name, []byte(st)), b.opened(name, []byte(ft)), nil
}

// Tell tells all who follow a name.
func (b *Board) Tell(ctx context.Context, name string, message []byte) error {
	return b.judge(b.link.commands().Publish(ctx, b.channel(name), b.sealed(name, message)).Err())
}

// Yield gives a lease up.
func (b *Board) Yield(ctx context.Context, name, who string, token uint64, message []byte) error {
	lease, _, _, _ := b.keys(name)
	return b.judge(yielding.Run(ctx, b.link.commands(), []string{lease}, leaseOf(token, who), b.channel(name), b.sealed(name, message)).Err())
}

// calmRefused is after how long without a refusal the next one is another outage. A server that
// is full, or has a user without channels, takes some commands and refuses others.
const calmRefused = time.Minute

// judge has an operator told of an error, once in an outage.
func (b *Board) judge(err error) error {
	var refusal goredis.Error
	refusing := errors.As(err, &refusal) && !isPassing(err)
	switch {
	case errors.Is(err, goredis.ErrClosed), errors.Is(err, context.Canceled):
		return err
	case err != nil && !refusing:
		b.link.stumble(err)
		return fmt.Errorf("asking redis: %w", err)
	}
	b.mu.Lock()
	known := !b.refused.IsZero()
	first, last := refusing && !known, !refusing && known && time.Since(b.refused) >= calmRefused
	switch {
	case refusing:
		b.refused = time.Now()
	case last:
		b.refused = time.Time{}
	}
	b.mu.Unlock()
	switch {
	case first && b.link.up(): // else that was said already
		b.logger.Warn("redis refuses what is shared; each Caddy checks for itself", zap.Strings("address", b.link.server.addrs), zap.Error(err))
	case last:
		b.logger.Info("redis takes what is shared again", zap.Strings("address", b.link.server.addrs))
	}
	if err == nil {
		b.link.steady()
	}
	return err
}
