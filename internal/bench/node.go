package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"kith/internal/config"
	"kith/proto"
)

// node is a kith node in a process of its own.
type node struct {
	*child
	s       *session
	dir     string
	flags   []string // by which it was started, beside those that all have
	service string   // host:port
	public  string   // host:port
	nats    string   // host:port
	http    http.Client
	killed  bool // and waited for
}

var (
	serviceLine = regexp.MustCompile(`service plane +http://(\S+)`)
	publicLine  = regexp.MustCompile(`public plane +http://(\S+)`)
)

// node starts a node with segments. active bounds its identities in memory;
// 0: its default. more are further flags.
func (s *session) node(ctx context.Context, active int, rules []rule, more ...string) (*node, error) {
	dir, err := s.folder("node")
	if err != nil {
		return nil, err
	}
	n, err := s.nodeIn(ctx, dir, active, more...)
	if err != nil {
		return nil, err
	}
	if err := n.define(ctx, rules); err != nil {
		_ = n.close()
		return nil, err
	}
	return n, nil
}

// nodeIn starts a node over a folder; more are further flags.
func (s *session) nodeIn(ctx context.Context, dir string, active int, more ...string) (*node, error) {
	n, err := s.launch(ctx, dir, active, more...)
	if err != nil {
		return nil, err
	}
	if err := n.ready(); err != nil {
		_ = n.child.close()
		return nil, err
	}
	return n, nil
}

// launch is nodeIn without waiting until the node is ready.
func (s *session) launch(ctx context.Context, dir string, active int, more ...string) (*node, error) {
	nats, err := freeAddress()
	if err != nil {
		return nil, err
	}
	args := append([]string{"node", "--data", dir, "--nats-listen", nats}, more...)
	if active > 0 {
		args = append(args, "--active-max", fmt.Sprint(active))
	}
	c, err := s.start(ctx, args...)
	if err != nil {
		return nil, err
	}
	n := &node{child: c, s: s, dir: dir, flags: more, nats: nats}
	n.http.Transport = &http.Transport{MaxIdleConnsPerHost: defineConns}
	return n, nil
}

// ready returns when the node answers.
func (n *node) ready() error {
	return n.until(func(line string) bool {
		if m := serviceLine.FindStringSubmatch(line); m != nil {
			n.service = m[1]
		}
		if m := publicLine.FindStringSubmatch(line); m != nil {
			n.public = m[1]
		}
		return strings.HasPrefix(line, "Ctrl-C")
	})
}

func (n *node) close() error {
	n.http.CloseIdleConnections()
	if n.killed {
		return nil
	}
	return n.child.close()
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress() (string, error) {
	var err error
	for range 100 {
		// Below the range that the system gives to clients: one of those could
		// take the port before the node does.
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", proto.Errorf(proto.CodeUnavailable, "cannot listen on loopback: %w", err)
}

// call asks the node's service plane, for what is not measured.
func (n *node) call(ctx context.Context, method, path string, in any) (status int, answer []byte, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+n.service+path, body)
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+config.DevKey)
	resp, err := n.http.Do(r)
	if err != nil {
		return 0, nil, proto.Errorf(proto.CodeUnavailable, "ask the node: %w", err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	return resp.StatusCode, answer, err
}

// defineConns is how many definitions are sent at once.
const defineConns = 32

func (n *node) define(ctx context.Context, rules []rule) error {
	if len(rules) > 1000 {
		n.s.say("defining %d segments", len(rules))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var at atomic.Int64
	var busy sync.WaitGroup
	for range defineConns {
		busy.Go(func() {
			for i := int(at.Add(1)) - 1; i < len(rules) && ctx.Err() == nil; i = int(at.Add(1)) - 1 {
				if err := n.defineOne(ctx, rules[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	busy.Wait()
	return context.Cause(ctx)
}

func (n *node) defineOne(ctx context.Context, r rule) error {
	status, answer, err := n.call(ctx, http.MethodPut, "/v1/segments/"+r.id, map[string]any{"id": r.id, "scope": cmp.Or(r.scope, "identity"), "when": r.when, "backfill": r.backfill})
	if err == nil && status/100 != 2 {
		err = proto.Errorf(proto.CodeInvalid, "segment %s was refused with status %d: %s", r.id, status, answer)
	}
	return err
}

// wait returns once the node has applied and published all of pos.
func (n *node) wait(ctx context.Context, pos proto.Position) error {
	for {
		status, answer, err := n.call(ctx, http.MethodGet, "/v1/identities/browser:nobody/segments?after="+pos.String(), nil)
		switch {
		case err != nil:
			return err
		case status == http.StatusOK:
			return nil
		case status != http.StatusGatewayTimeout:
			return proto.Errorf(proto.CodeInvalid, "waiting for position %s was answered with status %d: %s", pos, status, answer)
		}
	}
}

// profiled notes the node's processor time around what it runs, and its
// profile if one is wanted.
func (n *node) profiled(x *sample, run func() error) error {
	if n.s.Profile != "" {
		n.s.profiles++
		if _, err := n.ask("profile %s.%s.%d", n.s.Profile, n.s.name, n.s.profiles); err != nil {
			return err
		}
	}
	before := n.usage()
	if err := run(); err != nil {
		return err
	}
	x.cpu = n.usage().cpu - before.cpu
	if n.s.Profile != "" {
		if _, err := n.ask("stop"); err != nil {
			return err
		}
	}
	return nil
}

// diskUsed is what the files below dir take on the disk.
func diskUsed(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // removed meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += st.Blocks * 512
		} else {
			bytes += info.Size()
		}
		return nil
	})
	return bytes, err
}

// settle waits until the node's memory no longer shrinks, a minute at most,
// and gives it.
func (n *node) settle(ctx context.Context) usage {
	quiet := 3 * n.s.Time
	least, since := n.usage().rss, time.Now()
	for start := time.Now(); time.Since(start) < time.Minute && time.Since(since) < quiet && ctx.Err() == nil; {
		pause(ctx, min(time.Second, n.s.Time))
		if rss := n.usage().rss; rss < least-least/100 {
			least, since = rss, time.Now()
		}
	}
	return n.usage()
}

// Bounds of waiting for a node that works off what it was loaded with.
const (
	restMax  = 30 * time.Second
	restLook = 300 * time.Millisecond
	restLoad = 0.05 // of a processor
)

// rest waits until the node has nothing to do, so that a sample does not pay
// for the store's upkeep of what was loaded before it.
func (n *node) rest(ctx context.Context) {
	for start := time.Now(); time.Since(start) < restMax && ctx.Err() == nil; {
		before := n.usage().cpu
		pause(ctx, restLook)
		if n.usage().cpu-before <= restLoad*restLook.Seconds() {
			return
		}
	}
}
