package bench

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"kith/proto"
)

// redis is a redis-server on a socket of the run.
type redis struct {
	cmd    *exec.Cmd
	socket string
}

// startRedis starts one if the program is on the PATH; else it gives nil. It
// keeps nothing on disk, or with durable every command, synced.
func (s *session) startRedis(ctx context.Context, durable bool) (*redis, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		s.say("redis-server is not on the PATH: measured without it")
		return nil, nil
	}
	dir, err := s.folder("redis")
	if err != nil {
		return nil, err
	}
	r := &redis{socket: filepath.Join(dir, "s")}
	keep := "no"
	if durable {
		keep = "yes"
	}
	r.cmd = exec.CommandContext(ctx, program, "--port", "0", "--unixsocket", r.socket, "--dir", dir, "--save", "", "--appendonly", keep, "--appendfsync", "always")
	r.cmd.Cancel = func() error { return r.cmd.Process.Signal(os.Interrupt) }
	r.cmd.WaitDelay = stopMax
	if err := r.cmd.Start(); err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "cannot start %s: %w", program, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; pause(ctx, 5*time.Millisecond) {
		c, err := net.Dial("unix", r.socket)
		if err == nil {
			return r, c.Close()
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, errors.Join(proto.Errorf(proto.CodeUnavailable, "redis-server did not start: %w", err), r.close())
		}
	}
}

func (r *redis) close() error {
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	var exit *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &exit) { // it says 0 or the signal
		return err
	}
	return nil
}

// resp is a connection that speaks as much of Redis's protocol as it takes.
type resp struct {
	conn net.Conn
	buf  []byte
}

func (c *resp) close() { _ = c.conn.Close() }

// command appends a command.
func command(b []byte, words ...string) []byte {
	b = fmt.Appendf(b, "*%d\r\n", len(words))
	for _, w := range words {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b
}

// exchange sends commands and reads as many replies.
func (c *resp) exchange(commands []byte, replies int) error {
	if err := c.conn.SetDeadline(time.Now().Add(exchangeMax)); err != nil {
		return err
	}
	if _, err := c.conn.Write(commands); err != nil {
		return err
	}
	have, at := 0, 0
	for replies > 0 {
		for replies > 0 {
			n, err := reply(c.buf[at:have])
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			at, replies = at+n, replies-1
		}
		if replies == 0 {
			break
		}
		copy(c.buf, c.buf[at:have])
		have, at = have-at, 0
		if have == len(c.buf) {
			c.buf = append(c.buf, make([]byte, max(len(c.buf), 64<<10))...)
		}
		n, err := c.conn.Read(c.buf[have:])
		if err != nil {
			return err
		}
		have += n
	}
	return nil
}

// reply is the length of the reply that b begins with, 0 if it is not whole.
func reply(b []byte) (int, error) {
	end := bytes.Index(b, []byte("\r\n"))
	switch {
	case end < 0:
		return 0, nil
	case end == 0:
		return 0, proto.Errorf(proto.CodeInvalid, "Redis answered an empty line")
	}
	size := end + 2
	switch b[0] {
	case ':', '+':
		return size, nil
	case '-':
		return 0, proto.Errorf(proto.CodeInvalid, "Redis answered %s", b[:end])
	}
	n, err := strconv.Atoi(string(b[1:end]))
	if err != nil || n < -1 || n > 1<<20 || b[0] != '$' && b[0] != '*' {
		return 0, proto.Errorf(proto.CodeInvalid, "Redis answered %q", b[:end])
	}
	if b[0] == '$' {
		if size += max(n, -2) + 2; n < 0 {
			size = end + 2
		}
		if size > len(b) {
			return 0, nil
		}
		return size, nil
	}
	for range n {
		part, err := reply(b[size:])
		if part == 0 || err != nil {
			return 0, err
		}
		size += part
	}
	return size, nil
}

// pipelined runs make's commands on several connections for a time.
func (r *redis) pipelined(ctx context.Context, conns, commands int, d time.Duration, make func(conn int) func([]byte) []byte) (sum sample, err error) {
	before, start := usageOf(r.cmd.Process.Pid), time.Now()
	var mu sync.Mutex
	var busy sync.WaitGroup
	for i := range conns {
		busy.Go(func() {
			n, e := r.loop(ctx, commands, start.Add(d), make(i))
			mu.Lock()
			defer mu.Unlock()
			sum.units += n
			err = errors.Join(err, e)
		})
	}
	busy.Wait()
	sum.seconds = time.Since(start).Seconds()
	sum.cpu = usageOf(r.cmd.Process.Pid).cpu - before.cpu
	return sum, errors.Join(err, ctx.Err())
}

func (r *redis) loop(ctx context.Context, commands int, end time.Time, next func([]byte) []byte) (units int, err error) {
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		return 0, err
	}
	c := resp{conn: conn}
	defer c.close()
	var b []byte
	for time.Now().Before(end) && ctx.Err() == nil {
		b = next(b[:0])
		if err := c.exchange(b, commands); err != nil {
			return units, err
		}
		units += commands
	}
	return units, nil
}

// sadd adds each event's section to its visitor's set.
func (r *redis) sadd(ctx context.Context, from func(int) source, d time.Duration) (sample, error) {
	return r.pipelined(ctx, ingestConns, postEvents, d, func(i int) func([]byte) []byte {
		s, model := from(i), command(nil, "SADD", visitorMark, "s00")
		at := bytes.Index(model, []byte(visitorMark)) + 1
		section := bytes.LastIndex(model, []byte("s00")) + 1
		return func(b []byte) []byte {
			for range postEvents {
				v := s.next()
				putDigits(model[at:at+8], v.visitor)
				putDigits(model[section:section+2], v.section)
				b = append(b, model...)
			}
			return b
		}
	})
}

// fill gives every visitor the segments that the node answered.
func (r *redis) fill(ctx context.Context, all answers) error {
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		return err
	}
	c := resp{conn: conn}
	defer c.close()
	for v := range uint32(visitors) {
		ids := segmentsIn(all[lookupPath(v)])
		words := append([]string{"SADD", fmt.Sprintf("m%08d", v)}, ids...)
		if len(ids) == 0 {
			return proto.Errorf(proto.CodeInvalid, "visitor %d is in no segment: %s", v, all[lookupPath(v)])
		}
		if err := c.exchange(command(nil, words...), 1); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// segmentsIn are the segments of an answer to a look-up.
func segmentsIn(answer []byte) (ids []string) {
	_, list, _ := bytes.Cut(answer, []byte(`"segments":[`))
	list, _, _ = bytes.Cut(list, []byte("]"))
	for id := range bytes.SplitSeq(list, []byte(",")) {
		if len(id) > 2 {
			ids = append(ids, string(id[1:len(id)-1]))
		}
	}
	return ids
}

// smembers looks a hundred visitors up at once.
func (r *redis) smembers(ctx context.Context, d time.Duration) (sample, error) {
	return r.pipelined(ctx, batchConns, batchIdentities, d, func(i int) func([]byte) []byte {
		s, model := newUniform(uint64(i), visitors), command(nil, "SMEMBERS", "m00000000")
		at := bytes.Index(model, []byte("m00000000")) + 1
		return func(b []byte) []byte {
			for range batchIdentities {
				putDigits(model[at:at+8], s.next().visitor)
				b = append(b, model...)
			}
			return b
		}
	})
}

// linkScript puts two identities into one set, the smaller into the larger.
const linkScript = `local a, b = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if not a and not b then
  a = 'c' .. redis.call('INCR', 'clusters')
  redis.call('MSET', KEYS[1], a, KEYS[2], a)
  redis.call('SADD', a, KEYS[1], KEYS[2])
elseif not a then
  redis.call('SET', KEYS[1], b)
  redis.call('SADD', b, KEYS[1])
elseif not b then
  redis.call('SET', KEYS[2], a)
  redis.call('SADD', a, KEYS[2])
elseif a ~= b then
  if redis.call('SCARD', a) < redis.call('SCARD', b) then a, b = b, a end
  for _, id in ipairs(redis.call('SMEMBERS', b)) do
    redis.call('SET', id, a)
    redis.call('SADD', a, id)
  end
  redis.call('DEL', b)
end
return 1`

// link links new people by the script.
func (r *redis) link(ctx context.Context, c *census, d time.Duration) (sample, error) {
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		return sample{}, err
	}
	load := resp{conn: conn}
	defer load.close()
	if err := load.exchange(command(nil, "SCRIPT", "LOAD", linkScript), 1); err != nil {
		return sample{}, err
	}
	model := command(nil, "EVALSHA", fmt.Sprintf("%x", sha1.Sum([]byte(linkScript))), "2", browserModel, accountModel)
	first, second := bytes.Index(model, []byte(browserModel)), bytes.Index(model, []byte(accountModel))
	list := c.meetings(linkConns, endless)
	return r.pipelined(ctx, linkConns, postEvents, d, func(i int) func([]byte) []byte {
		model := bytes.Clone(model)
		return func(b []byte) []byte {
			for range postEvents {
				list[i].next().put(model[first:first+identityLength], model[second:second+identityLength])
				b = append(b, model...)
			}
			return b
		}
	})
}
