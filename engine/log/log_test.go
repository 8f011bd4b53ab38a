package log_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"kith/engine/log"
	"kith/proto"
)

func TestConfigValidate(t *testing.T) {
	good := config("somewhere")
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*log.Config){
		"no place":      func(c *log.Config) { c.Dir = "" },
		"no lanes":      func(c *log.Config) { c.Lanes = 0 },
		"many lanes":    func(c *log.Config) { c.Lanes = proto.LanesMax + 1 },
		"tiny":          func(c *log.Config) { c.MaxBytes = 1000 },
		"no name":       func(c *log.Config) { c.Name = "" },
		"no keys":       func(c *log.Config) { c.ClientListen = "127.0.0.1:0" },
		"bad address":   func(c *log.Config) { c.ClientListen, c.Authorize = "nowhere", nobody },
		"url and port":  func(c *log.Config) { c.URL, c.ClientListen, c.Authorize = "nats://x", "127.0.0.1:0", nobody },
		"negative wait": func(c *log.Config) { c.AppendTimeout = -1 },
	} {
		c := good
		spoil(&c)
		if err := c.Validate(); proto.CodeOf(err) != proto.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func nobody(log.Credentials) (log.Grant, bool) { return log.Grant{}, false }

func TestEveryAppendIsSynced(t *testing.T) {
	l := open(t, config(t.TempDir()))
	defer l.Close()
	if !l.SyncAlways() {
		t.Error("the server does not sync every write")
	}
	if w := l.Warnings(); len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
}

// What a record takes beside itself is what the engine reckons with, or a little less.
func TestControlRecordBytes(t *testing.T) {
	l := open(t, config(t.TempDir()))
	defer l.Close()
	const records, each = 200, 300
	for i := range records {
		if _, err := l.Control().Append(t.Context(), make([]byte, each), uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := l.ControlBytes(t.Context())
	if most := uint64(records * (each + log.ControlRecordBytes)); err != nil || got > most || got < most-records*30 {
		t.Errorf("%d records take %d bytes, %v, want at most %d and hardly less", records, got, err, most)
	}
}

func TestReopenedLogGoesOn(t *testing.T) {
	c := config(t.TempDir())
	l := open(t, c)
	appendAll(t, l.Lane(1), 1, 9)
	if _, err := l.Control().Append(t.Context(), []byte("c"), 0); err != nil {
		t.Fatal(err)
	}
	before, _ := l.Lane(1).Info(t.Context())
	l.Close()
	l.Close()

	l = open(t, c)
	defer l.Close()
	after, err := l.Lane(1).Info(t.Context())
	if err != nil || after != before {
		t.Errorf("reopened as %+v, %v, was %+v", after, err, before)
	}
	if diff := cmp.Diff(bodies(1, 9), read(t, l.Lane(1), 1, 9)); diff != "" {
		t.Error(diff)
	}
	if at, err := l.Lane(1).Append(t.Context(), entry(9, "body 9")); err != nil || at != 9 {
		t.Errorf("a retry across the restart lies at %d, %v", at, err)
	}
	appendAll(t, l.Lane(1), 10, 10)
	if last, _ := l.Control().Last(t.Context()); last != 1 {
		t.Errorf("control stream ends at %d", last)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	c := config(t.TempDir())
	l := open(t, c)
	defer l.Close()
	if _, err := log.Open(t.Context(), c); proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second log in the same directory: %v", err)
	}
	appendAll(t, l.Lane(1), 1, 1) // the first is unharmed
}

func TestUnwritableDirectoryIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Open(t.Context(), config(filepath.Join(file, "below"))); proto.CodeOf(err) != proto.CodeInvalid {
		t.Error(err)
	}
}

func TestStreamChangedFromOutsideIsRefused(t *testing.T) {
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"maximum age": func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"discard":     func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"subjects":    func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "more") },
		"format":      func(c *jetstream.StreamConfig) { c.Metadata["kith.format"] = "99" },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t.TempDir())
			l := open(t, c)
			js, err := jetstream.New(l.Conn())
			if err != nil {
				t.Fatal(err)
			}
			s, err := js.Stream(t.Context(), "KITH_L01")
			if err != nil {
				t.Fatal(err)
			}
			sc := s.CachedInfo().Config
			change(&sc)
			if _, err := js.UpdateStream(t.Context(), sc); err != nil {
				t.Fatal(err)
			}
			l.Close()
			if _, err := log.Open(t.Context(), c); proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "KITH_L01") {
				t.Errorf("opened with changed settings: %v", err)
			}
		})
	}
}

func TestBoundOfALane(t *testing.T) {
	c := config(t.TempDir())
	c.MaxBytes = 8 << 20
	l := open(t, c)
	big := string(bytes.Repeat([]byte("x"), 900<<10))
	var err error
	last := uint64(0)
	for seq := uint64(1); err == nil && seq < 20; seq++ {
		if _, err = l.Lane(1).Append(t.Context(), entry(seq, big)); err == nil {
			last = seq
		}
	}
	if proto.CodeOf(err) != proto.CodeDiskFull || log.Ambiguous(err) || last < 5 {
		t.Fatalf("after %d entries: %v", last, err)
	}
	if i, _ := l.Lane(1).Info(t.Context()); i.First != 1 || uint64(i.Last) != last || i.BytesMax != 8<<20 {
		t.Errorf("the full stream is %+v, want 1 to %d", i, last)
	}
	if err := l.Healthy(); err == nil {
		t.Error("a full log is healthy")
	}
	if err := l.Lane(1).Purge(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if at, err := l.Lane(1).Append(t.Context(), entry(30, big)); err != nil || uint64(at) != last+1 {
		t.Errorf("append after a purge: %d, %v", at, err)
	}
	if err := l.Healthy(); err != nil {
		t.Errorf("after a good append: %v", err)
	}
	l.Close()

	c.MaxBytes = 32 << 20 // may grow
	l = open(t, c)
	if _, err := l.Lane(1).Append(t.Context(), entry(31, big)); err != nil {
		t.Error(err)
	}
	for seq := uint64(32); seq < 45; seq++ {
		if _, err := l.Lane(1).Append(t.Context(), entry(seq, big)); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	c.MaxBytes = 8 << 20 // but never below what is stored
	if _, err := log.Open(t.Context(), c); proto.CodeOf(err) != proto.CodeInvalid || !strings.Contains(err.Error(), "max_bytes") {
		t.Errorf("shrunk below its content: %v", err)
	}
	c.MaxBytes = 0 // derived from the disk
	l = open(t, c)
	defer l.Close()
	if i, _ := l.Lane(1).Info(t.Context()); i.BytesMax < 32<<20 {
		t.Errorf("derived bound %d", i.BytesMax)
	}
}

// TestLocked: what is to be done under the lock is done before the server starts.
func TestLocked(t *testing.T) {
	c := config(t.TempDir())
	refused := errors.New("refused")
	c.Locked = func() error { return refused }
	if _, err := log.Open(t.Context(), c); !errors.Is(err, refused) {
		t.Errorf("it opens: %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "jetstream")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the server was started: %v", err)
	}
	c.Locked = nil
	open(t, c).Close() // the lock was given up
}

// On a disk that is really full, JetStream shuts itself down.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("cannot mount a small tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c := config(dir)
	c.AppendTimeout = time.Second
	l := open(t, c)
	big := string(bytes.Repeat([]byte("x"), 900<<10))
	last := uint64(0)
	var err error
	for seq := uint64(1); err == nil && seq < 40; seq++ {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err = l.Lane(1).Append(ctx, entry(seq, big)); err == nil {
			last = seq
		}
		cancel()
	}
	if code := proto.CodeOf(err); code != proto.CodeDiskFull && code != proto.CodeUnavailable || last < 5 {
		t.Fatalf("after %d entries: %v", last, err)
	}
	if err := l.Healthy(); proto.CodeOf(err) != proto.CodeDiskFull {
		t.Errorf("health on a full disk: %v", err)
	}
	t.Logf("full after %d entries: %v; health: %v", last, err, l.Healthy())
	l.Close()

	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	l = open(t, c)
	defer l.Close()
	for at := proto.Offset(1); uint64(at) <= last; at++ {
		if r, err := l.Lane(1).Get(t.Context(), at); err != nil || bodyOf(t, r.Data) != big {
			t.Fatalf("acknowledged entry %d: %v", at, err)
		}
	}
	if _, err := l.Lane(1).Append(t.Context(), entry(99, "after")); err != nil {
		t.Errorf("append with space again: %v", err)
	}
}

// What a damaged block leaves is either refused at open, or visible: the
// stream ends earlier (the store's fingerprint catches that), an entry is
// missing, or it fails its checksum. Never does a read give other bytes.
func TestDamagedBlockIsVisible(t *testing.T) {
	const n = 50
	damage := map[string]func(b []byte) []byte{
		"bit flip in the middle": func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"bit flip at the start":  func(b []byte) []byte { b[30] ^= 4; return b },
		"bit flip at the end":    func(b []byte) []byte { b[len(b)-20] ^= 4; return b },
		"half cut off":           func(b []byte) []byte { return b[:len(b)/2] },
		"a little cut off":       func(b []byte) []byte { return b[:len(b)-5] },
		"sequence flipped": func(b []byte) []byte {
			second := binary.LittleEndian.Uint32(b) &^ (1 << 31)
			b[second+4+7] ^= 1 // the server would fill the hole until memory ends
			return b
		},
		"all cut off":          func(b []byte) []byte { return nil },
		"zeroes in the middle": func(b []byte) []byte { clear(b[len(b)/2 : len(b)/2+64]); return b },
	}
	for name, spoil := range damage {
		for _, index := range []string{"index kept", "index lost"} {
			t.Run(name+", "+index, func(t *testing.T) {
				c := config(t.TempDir())
				l := open(t, c)
				appendAll(t, l.Lane(1), 1, n)
				l.Close()
				blocks := filepath.Join(c.Dir, "jetstream", "$G", "streams", "KITH_L01", "msgs")
				rewrite(t, filepath.Join(blocks, "1.blk"), spoil)
				if index == "index lost" {
					if err := os.Remove(filepath.Join(blocks, "index.db")); err != nil {
						t.Fatal(err)
					}
				}
				seen := &bytes.Buffer{}
				c.Logger = slog.New(slog.NewTextHandler(seen, nil))
				what := checkDamaged(t, c, n)
				t.Logf("%s; the server said: %.200s", what, seen)
			})
		}
	}
}

func rewrite(t *testing.T, file string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, f(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// checkDamaged says what became of entries 1 to n.
func checkDamaged(t *testing.T, c log.Config, n int) string {
	l, err := log.Open(t.Context(), c)
	if err != nil {
		if proto.CodeOf(err) != proto.CodeCorrupt {
			t.Error(err)
		}
		return "refused at open: " + err.Error()
	}
	defer l.Close()
	i, err := l.Lane(1).Info(t.Context())
	if err != nil {
		return "no information: " + err.Error()
	}
	if int(i.Last) < n || i.First > 1 {
		return fmt.Sprintf("visible: the stream holds %d to %d of %d", i.First, i.Last, n)
	}
	at := proto.Offset(0)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = l.Lane(1).Read(ctx, 1, func(r log.Record) error {
		e, err := proto.DecodeEntry(r.Data, 1)
		if err != nil {
			return err
		}
		if at++; r.Offset != at || e.Seq != uint64(at) || bodyOf(t, r.Data) != fmt.Sprint("body ", at) {
			t.Errorf("record %d is silently another: %+v", at, e)
		}
		if int(at) == n {
			return errEnough
		}
		return nil
	})
	if proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("the damage is invisible: %v", err)
	}
	return fmt.Sprintf("visible: reading stops after %d: %v", at, err)
}

// A connection ends with what opened it, also if that went as it was being opened;
// others stay.
func TestRecheckEndsConnections(t *testing.T) {
	c := config(t.TempDir())
	c.ClientListen = "127.0.0.1:0"
	var gone [3]atomic.Bool
	c.Authorize = func(x log.Credentials) (log.Grant, bool) {
		i := int(x.Token[0] - '0')
		return log.Grant{Name: "demo", Subscribe: []string{"kith.out.>"}, Holds: func() bool { return !gone[i].Load() }}, true
	}
	l := open(t, c)
	defer l.Close()
	connect := func(key string) (*nats.Conn, *nats.Subscription) {
		t.Helper()
		nc, err := nats.Connect(l.ClientURL(), nats.Token(key), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		sub, err := nc.SubscribeSync("kith.out.x")
		if err != nil || nc.Flush() != nil {
			t.Fatal(err)
		}
		return nc, sub
	}
	first, _ := connect("0")
	_, second := connect("1")
	l.Recheck()
	if !first.IsConnected() {
		t.Error("a connection ended whose grant holds")
	}
	gone[0].Store(true)
	l.Recheck()
	for deadline := time.Now().Add(10 * time.Second); first.IsConnected(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a connection stays whose grant was taken back")
		}
	}
	if err := l.Conn().Publish("kith.out.x", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := second.NextMsg(10 * time.Second); err != nil {
		t.Errorf("another connection ended too: %v", err)
	}
	gone[2].Store(true)
	if _, err := nats.Connect(l.ClientURL(), nats.Token("2")); err == nil {
		t.Error("who is let in by what was taken back meanwhile stays")
	}
}

// A client may neither open connections nor listen without end: what is sent to it is
// kept for each. Our own connections are not bounded with it.
func TestNetworkClientsAreBounded(t *testing.T) {
	c := config(t.TempDir())
	c.ClientListen = "127.0.0.1:0"
	c.Authorize = func(x log.Credentials) (log.Grant, bool) {
		return log.Grant{Name: x.User, Few: x.User == "acme (report)", Subscribe: []string{"_INBOX_acme.>"}}, true
	}
	l := open(t, c)
	defer l.Close()
	connect := func(name string) (*nats.Conn, error) {
		nc, err := nats.Connect(l.ClientURL(), nats.UserInfo(name, "key"), nats.NoReconnect())
		if err == nil {
			t.Cleanup(nc.Close)
		}
		return nc, err
	}
	last := map[string]*nats.Conn{}
	for name, most := range map[string]int{"acme": log.ManyConnections, "acme (report)": log.FewConnections} {
		for i := range most {
			nc, err := connect(name)
			if err != nil {
				t.Fatalf("connection %d of %s: %v", i, name, err)
			}
			last[name] = nc
		}
		if _, err := connect(name); err == nil {
			t.Errorf("more than %d connections of %s are let in", most, name)
		}
	}
	if after, err := l.DeadAfter(); err != nil || after > time.Minute {
		t.Errorf("a connection that is dead counts for %v, %v", after, err)
	}
	if n := l.Refused(); n != 2 {
		t.Errorf("%d connections are counted as refused, not 2", n)
	}
	other, err := connect("other")
	if err != nil {
		t.Errorf("another client is not let in: %v", err)
	}
	last["acme"].Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err = connect("acme"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("in the place of one that was closed none is let in: %v", err)
		}
	}
	listen := func(nc *nats.Conn, subject string) (heard int) {
		t.Helper()
		for range 2 * log.ManySubscriptions {
			if _, err := nc.Subscribe(subject, func(*nats.Msg) {}); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		return l.Listeners(subject)
	}
	if n := listen(other, "_INBOX_acme.x"); n != log.ManySubscriptions {
		t.Errorf("a client listens %d times over one connection, not %d", n, log.ManySubscriptions)
	}
	if n := listen(last["acme (report)"], "_INBOX_acme.y"); n != log.FewSubscriptions {
		t.Errorf("a report key listens %d times over one connection, not %d", n, log.FewSubscriptions)
	}
	if n := listen(l.Conn(), "kith.own"); n != 2*log.ManySubscriptions {
		t.Errorf("our own connection listens %d times only", n)
	}
	if l.ServiceConn() == l.Conn() || !l.ServiceConn().IsConnected() {
		t.Error("answers go over the connection that appends to the log")
	}
}

// Strangers, who have shown no key yet, and all clients together leave room for our own
// connections.
func TestStrangersLeaveRoomForOurOwn(t *testing.T) {
	const most = 32
	c := config(t.TempDir())
	c.ClientListen = "127.0.0.1:0"
	c.SetConnectionsMax(most)
	c.Authorize = func(x log.Credentials) (log.Grant, bool) { return log.Grant{Name: x.User}, true }
	l := open(t, c)
	defer l.Close()
	var clients []*nats.Conn
	for i := range most {
		nc, err := nats.Connect(l.ClientURL(), nats.UserInfo(fmt.Sprint(i), "key"), nats.NoReconnect())
		if err == nil {
			t.Cleanup(nc.Close)
			clients = append(clients, nc)
		}
	}
	if len(clients) != most/2 || l.Refused() != most/2 {
		t.Errorf("of %d clients, each with a name of its own, %d are let in, %d counted as refused", most, len(clients), l.Refused())
	}
	address := strings.TrimPrefix(l.ClientURL(), "nats://")
	for range most {
		s, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); l.Connections() < most; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("strangers hold %d connections only", l.Connections())
		}
	}
	own, err := l.ConnectOwn()
	if err != nil {
		t.Fatalf("strangers keep our own connection out: %v", err)
	}
	own.Close()
	if n := l.Conn().Stats().Reconnects + l.ServiceConn().Stats().Reconnects; n > 0 {
		t.Error("our own connections ended with strangers'")
	}
	for _, nc := range clients {
		if err := nc.Flush(); err != nil {
			t.Errorf("a client's connection ended: %v", err)
		}
	}
}

func TestNetworkClientsCannotReachTheLog(t *testing.T) {
	c := config(t.TempDir())
	c.ClientListen = "127.0.0.1:0"
	c.Authorize = func(x log.Credentials) (log.Grant, bool) {
		// Generous beyond reason: the log must still be out of reach.
		return log.Grant{Name: "demo", Publish: []string{">"}, Subscribe: []string{">"}}, x.Token == "key"
	}
	l := open(t, c)
	defer l.Close()
	if _, err := nats.Connect(l.ClientURL(), nats.Token("wrong")); err == nil {
		t.Error("a wrong key is let in")
	}
	if _, err := nats.Connect(l.ClientURL()); err == nil {
		t.Error("no key is let in")
	}
	refused := make(chan error, 10)
	nc, err := nats.Connect(l.ClientURL(), nats.Token("key"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, subject := range []string{"kith.log.01", "kith.ctl", "kith.audit", "kith.feed.1", "$JS.API.STREAM.PURGE.KITH_L01"} {
		if err := nc.Publish(subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
			t.Errorf("publish to %s: %v", subject, err)
		}
	}
	// It can talk to those who listen on our connection.
	if _, err := l.Conn().Subscribe("kith.in.demo", func(m *nats.Msg) { _ = m.Respond([]byte("took " + string(m.Data))) }); err != nil {
		t.Fatal(err)
	}
	if err := l.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	if m, err := nc.Request("kith.in.demo", []byte("x"), 5*time.Second); err != nil || string(m.Data) != "took x" {
		t.Errorf("request: %v, %v", m, err)
	}
	// And it does not hear what is said to the log.
	heard, err := nc.SubscribeSync("kith.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	appendAll(t, l.Lane(1), 1, 1)
	if err := l.Conn().Publish("kith.out.x", []byte("public")); err != nil {
		t.Fatal(err)
	}
	if m, err := heard.NextMsg(5 * time.Second); err != nil || m.Subject != "kith.out.x" {
		t.Errorf("heard %v, %v", m, err)
	}
	if i, _ := l.Lane(1).Info(t.Context()); i.Last != 1 {
		t.Errorf("the log has %d records", i.Last)
	}
}

func TestExternalNATS(t *testing.T) {
	outside := config(t.TempDir())
	outside.ClientListen = "127.0.0.1:0"
	outside.Authorize = nobody
	server := open(t, outside) // an embedded server plays the outside one
	defer server.Close()
	if _, err := log.Open(t.Context(), log.Config{URL: "nats://127.0.0.1:1", Lanes: 1, Name: "x"}); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("nobody there: %v", err)
	}
	for _, u := range []string{"nats://user:hush@127.0.0.1:1", "nats://hush@127.0.0.1:1", "127.0.0.1:1,user:hush@127.0.0.1:2"} {
		if _, err := log.Open(t.Context(), log.Config{URL: u, Lanes: 1, Name: "x"}); err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), "nats://127.0.0.1:1") {
			t.Errorf("%s: %v", u, err)
		}
	}
	if _, err := log.Open(t.Context(), log.Config{URL: server.ClientURL(), Lanes: 1, Name: "x"}); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("not let in: %v", err)
	}
	user, secret := server.Own()
	url := strings.Replace(server.ClientURL(), "nats://", "nats://"+user+":"+secret+"@", 1)
	l := open(t, log.Config{URL: url, Lanes: 2, Name: "x", MaxBytes: 64 << 20})
	defer l.Close()
	appendAll(t, l.Lane(1), 1, 3)
	if diff := cmp.Diff(bodies(1, 3), read(t, server.Lane(1), 1, 3)); diff != "" {
		t.Error(diff)
	}
	if !l.Conn().Opts.IgnoreAuthErrorAbort {
		t.Error("a server that lets nobody in for a while, as when it starts, is given up for good")
	}
	if w := l.Warnings(); len(w) != 1 || strings.Contains(w[0], secret) {
		t.Errorf("warnings %q", w)
	}
}

func TestStartOverGoesOnBehindTheStore(t *testing.T) {
	c := config(t.TempDir())
	l := open(t, c)
	appendAll(t, l.Lane(1), 1, 5)
	before, _ := l.Lane(1).Info(t.Context())
	if err := l.StartOver(t.Context(), 1, 9); err != nil {
		t.Fatal(err)
	}
	after, err := l.Lane(1).Info(t.Context())
	if err != nil || after.First != 9 || after.Last != 8 || !after.Created.After(before.Created) {
		t.Errorf("started over as %+v, %v", after, err)
	}
	appendAll(t, l.Lane(1), 9, 10)
	l.Close()
	l = open(t, c)
	defer l.Close()
	if diff := cmp.Diff(bodies(9, 10), read(t, l.Lane(1), 9, 2)); diff != "" {
		t.Error(diff)
	}
}

// A log of an earlier build, without marks, gets them from a node whose store is known
// to be of it, and is opened with its own number of lanes only.
func TestLogWithoutMarks(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	if _, err := l.Control().Append(t.Context(), []byte("record"), 0); err != nil {
		t.Fatal(err)
	}
	l.Close()
	try := func(lanes int, mark string, marked bool) proto.Code {
		c := config(dir)
		c.Lanes, c.Mark, c.Marked = lanes, mark, marked
		l, err := log.Open(t.Context(), c)
		if err != nil {
			return proto.CodeOf(err)
		}
		l.Close()
		return ""
	}
	for i, x := range []struct {
		lanes  int
		mark   string
		marked bool
		want   proto.Code
	}{
		{1, "aa", false, proto.CodeConflict},
		{3, "aa", true, proto.CodeConflict},
		{2, "bb", false, ""}, // who knows nothing marks nothing
		{2, "aa", true, ""},
		{2, "bb", true, proto.CodeConflict},
		{1, "aa", true, proto.CodeConflict},
		{2, "aa", false, ""},
	} {
		if got := try(x.lanes, x.mark, x.marked); got != x.want {
			t.Errorf("%d: %+v: %q", i, x, got)
		}
	}
}
