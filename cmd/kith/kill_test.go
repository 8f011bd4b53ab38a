package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// killsShort is how often the node is killed unless KITH_KILLS says otherwise.
const killsShort = 6

// A node is killed at a random moment under load, again and again: every
// acknowledged event must be counted exactly once, no other one twice, also
// when what was not acknowledged is sent again; and verify must find nothing.
func TestKilledNodeLosesNothing(t *testing.T) {
	t.Parallel()
	kills := killsShort
	if s := os.Getenv("KITH_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("KITH_KILLS is %q, not a number", s)
		}
	} else if testing.Short() {
		kills = 2
	}
	seed := rand.Uint64()
	t.Logf("seed %d, %d kills", seed, kills)
	chance := rand.New(rand.NewPCG(seed, 0))
	load := &killLoad{data: t.TempDir() + "/data"}
	for round := range kills {
		p := startProcess(t, load.data)
		if round == 0 {
			load.define(t, p)
		}
		load.check(t, p)
		moment := time.NewTimer(time.Duration(30+chance.IntN(500)) * time.Millisecond)
		load.run(t, p, round, moment.C)
		var out bytes.Buffer
		if code := run(t.Context(), []string{"verify", "--data", load.data}, nil, &out, &out, func(string) string { return "" }); code != 0 {
			t.Fatalf("verify after kill %d (seed %d): exit code %d\n%s", round, seed, code, out.String())
		}
		if t.Failed() {
			t.Fatalf("after kill %d, seed %d", round, seed)
		}
	}
	load.check(t, startProcess(t, load.data))
	t.Logf("%d events acknowledged, %d posts sent again", len(load.acked), load.again)
	if len(load.acked) == 0 {
		t.Error("nothing was acknowledged between start and kill: the test shows nothing")
	}
}

// process is a node in a process of its own.
type process struct {
	cmd     *exec.Cmd
	service string // once answers is closed
	log     lockedBuffer
	answers chan struct{}
	exited  chan struct{}
}

func startProcess(t *testing.T, data string, args ...string) *process {
	t.Helper()
	p := launchProcess(t, data, args...)
	p.await(t)
	return p
}

// launchProcess does not wait until the node answers.
func launchProcess(t *testing.T, data string, args ...string) *process {
	t.Helper()
	return launchCommand(t, append(devCommand(data), args...))
}

// devCommand starts a node that takes what ports are free.
func devCommand(data string) []string {
	return []string{"kith", "serve", "--dev", "--data", data, "--public", "127.0.0.1:0", "--service", "127.0.0.1:0"}
}

// launchCommand starts a node by a command, which becomes the node's process.
func launchCommand(t *testing.T, command []string) *process {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	p := &process{cmd: cmd, exited: make(chan struct{})}
	cmd.Stderr = &p.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.answers = make(chan struct{})
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() && p.service == "" {
			if m := planeLine.FindStringSubmatch(lines.Text()); m != nil && m[1] == "service" {
				p.service = m[2]
			}
		}
		close(p.answers)
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // killed, as it should be
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		said := p.log.String()
		if i := strings.Index(said, "WARNING: DATA RACE"); i >= 0 { // of a test binary with the race detector
			t.Errorf("in the node's process: %s", said[i:min(len(said), i+8<<10)])
		}
		if t.Failed() {
			t.Logf("the node said:\n%s", tail(said, 4<<10))
		}
	})
	return p
}

// startMax bounds the waiting for a node's start.
const startMax = 3 * time.Minute

// await waits until the node answers.
func (p *process) await(t *testing.T) {
	t.Helper()
	select {
	case <-p.answers:
	case <-time.After(startMax):
		t.Fatalf("the node does not answer after %v", startMax)
	}
	if p.service == "" {
		<-p.exited
		t.Fatalf("the node did not start:\n%s", p.log.String())
	}
}

// kill sends SIGKILL and waits for the end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone
	<-p.exited
}

// call makes a request with the demo client's or, for counts, the admin's key.
func (p *process) call(ctx context.Context, method, path, key string, body, out any) error {
	c := &connection{service: p.service, key: key, getenv: func(string) string { return "" }}
	if key != "demo-key" {
		c.client = "demo"
	}
	return c.call(ctx, method, path, nil, body, out)
}

// killLoad is what was sent. Each event has an identity of its own, so that
// the segment "once" holds those that counted and "twice" must stay empty.
type killLoad struct {
	data string

	mu     sync.Mutex
	acked  []string   // identities of acknowledged events
	unsure [][]string // posts whose answer did not come
	again  int
	sent   uint64
}

func (l *killLoad) define(t *testing.T, p *process) {
	t.Helper()
	for id, n := range map[string]int{"once": 1, "twice": 2} {
		rule := map[string]any{"scope": "identity", "when": fmt.Sprintf(`count(true, "30d") >= %d`, n)}
		if err := p.call(t.Context(), http.MethodPut, "/v1/segments/"+id, "demo-key", rule, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// send posts one event for each identity, with the identity as its id.
func (l *killLoad) send(ctx context.Context, p *process, ids []string) (position string, err error) {
	events := make([]map[string]any, len(ids))
	for i, id := range ids {
		events[i] = map[string]any{"event": "page", "id": id, "identities": []string{id}}
	}
	var a struct {
		Accepted int
		Refused  []json.RawMessage
		Position string
	}
	if err := p.call(ctx, http.MethodPost, "/v1/events", "demo-key", map[string]any{"events": events}, &a); err != nil {
		return "", err
	}
	if a.Accepted != len(ids) {
		return "", fmt.Errorf("accepted %d of %d; refused %s", a.Accepted, len(ids), a.Refused)
	}
	return a.Position, nil
}

// run sends from several goroutines until the node is killed.
func (l *killLoad) run(t *testing.T, p *process, round int, moment <-chan time.Time) {
	t.Helper()
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			for n := 0; ; n++ {
				ids := make([]string, 25)
				for i := range ids {
					ids[i] = fmt.Sprintf("browser:r%d-w%d-%d-%d", round, w, n, i)
				}
				_, err := l.send(t.Context(), p, ids)
				l.mu.Lock()
				l.sent += uint64(len(ids))
				if err == nil {
					l.acked = append(l.acked, ids...)
				} else {
					l.unsure = append(l.unsure, ids)
				}
				l.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	<-moment
	p.kill()
	workers.Wait()
}

// check compares what the node shows with what was sent, before and after it
// sends again what was not acknowledged.
func (l *killLoad) check(t *testing.T, p *process) {
	t.Helper()
	l.compare(t, p, "after the start")
	position := ""
	for _, ids := range l.unsure {
		var err error
		if position, err = l.send(t.Context(), p, ids); err != nil {
			t.Fatalf("send again: %v", err)
		}
		l.acked = append(l.acked, ids...)
		l.again++
	}
	l.unsure = nil
	if position != "" {
		if err := p.call(t.Context(), http.MethodPost, "/v1/lookup?after="+position, "demo-key", map[string][]string{"identities": {"browser:x"}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	l.compare(t, p, "after sending again")
}

func (l *killLoad) compare(t *testing.T, p *process, when string) {
	t.Helper()
	if n := l.count(t, p, "twice"); n != 0 {
		t.Errorf("%s: %d events were counted twice", when, n)
	}
	if n := l.count(t, p, "once"); n < uint64(len(l.acked)) || n > l.sent {
		t.Errorf("%s: %d events counted, %d acknowledged, %d sent", when, n, len(l.acked), l.sent)
	}
	missing, err := l.missing(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(missing) > 0 {
		t.Errorf("%s: %d acknowledged events are lost, %s first", when, len(missing), missing[0])
	}
}

func (l *killLoad) count(t *testing.T, p *process, expr string) uint64 {
	t.Helper()
	var c struct{ Count *uint64 }
	err := p.call(t.Context(), http.MethodPost, "/v1/audiences/count", "dev-admin-key", map[string]string{"expr": expr, "unit": "identities"}, &c)
	if err == nil && c.Count == nil {
		err = errors.New("no count was given")
	}
	if err != nil {
		t.Fatal(err)
	}
	return *c.Count
}

// missing are the acknowledged identities that are not in the segment "once".
func (l *killLoad) missing(ctx context.Context, p *process) (missing []string, err error) {
	for start := 0; start < len(l.acked); start += lookupMax {
		ids := l.acked[start:min(start+lookupMax, len(l.acked))]
		var out struct{ Results []lookupResult }
		if err := p.call(ctx, http.MethodPost, "/v1/lookup", "demo-key", map[string]any{"identities": ids}, &out); err != nil {
			return nil, err
		}
		for i, r := range out.Results {
			if strings.Join(r.Segments, " ") != "once" {
				missing = append(missing, ids[i])
			}
		}
	}
	return missing, nil
}
