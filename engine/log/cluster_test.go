package log_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kith/engine/log"
	"kith/internal/porttest"
	"kith/proto"
)

// three are the configurations of a cluster's nodes on loopback.
func three(t testing.TB) (list [3]log.Config) {
	t.Helper()
	var routes []string
	for range list {
		routes = append(routes, porttest.Free(t))
	}
	for i := range list {
		list[i] = config(t.TempDir())
		list[i].Name = "n" + string(rune('1'+i))
		list[i].Cluster = &log.Cluster{Name: "test", Listen: routes[i], Routes: routes, Secret: "s3cret"}
	}
	return list
}

// openThree opens them at once, as none gets ready alone.
func openThree(t testing.TB, list [3]log.Config) (logs [3]*log.Log) {
	t.Helper()
	copy(logs[:], openAll(t, list[:]))
	return logs
}

func openAll(t testing.TB, list []log.Config) []*log.Log {
	t.Helper()
	logs := make([]*log.Log, len(list))
	var wait sync.WaitGroup
	for i := range list {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			l, err := log.Open(ctx, list[i])
			if err != nil {
				t.Errorf("node %s: %v", list[i].Name, err)
				return
			}
			logs[i] = l
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return logs
}

// trio closes with the last of its logs what the others are.
type trio struct {
	log.Logs
	others []*log.Log
}

func (x trio) Close() error {
	err := x.Logs.Close()
	for _, l := range x.others {
		l.Kill()
	}
	return err
}

func openTrio(t *testing.T) log.Logs {
	logs := openThree(t, three(t))
	logs[0].NoDoubt()
	return trio{logs[0], logs[1:]}
}

// TestClusterLosesNothing: what was acknowledged through any node is read
// through all others once and in one order, whichever of them stops and comes
// back meanwhile.
func TestClusterLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("servers go and come, and each time a leader is elected: not in short runs")
	}
	list := three(t)
	logs := openThree(t, list)
	acked := newOutcomes(t)
	const perRound = 60
	submit := func(through []int, round int) {
		var wait sync.WaitGroup
		for _, i := range through {
			wait.Go(func() {
				c := packerConfig()
				c.Producer, c.EventsMax, c.RetryMax = uint64(10*round+i+1), 8, 30*time.Second
				p := log.NewPacker(logs[i].Lane(1), c)
				for k := range perRound {
					id := (round*3+i)*perRound + k
					if err := p.Submit(commands(id, id), 1, acked.done(id)); err != nil {
						t.Error(err)
					}
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				if err := p.Close(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	}
	submit([]int{0, 1, 2}, 0)
	for round, gone := range []int{0, 1, 2} {
		var wait sync.WaitGroup
		wait.Go(func() { submit([]int{(gone + 1) % 3, (gone + 2) % 3}, round+1) })
		if round == 1 {
			logs[gone].Kill() // nobody is told
		} else {
			logs[gone].Close()
		}
		wait.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		l, err := log.Open(ctx, list[gone])
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		logs[gone] = l
	}
	acked.wg.Wait()
	var first []int
	for i, l := range logs {
		all := numbers(t, l.Lane(1))
		if first == nil {
			first = all
		}
		if diff := cmp.Diff(first, all); diff != "" {
			t.Errorf("node %d reads another log (-n1 +it):\n%s", i+1, diff)
		}
	}
	sorted := slices.Sorted(slices.Values(first))
	if unique := slices.Compact(slices.Clone(sorted)); len(unique) != len(sorted) {
		t.Errorf("%d commands are stored more than once", len(sorted)-len(unique))
	}
	answered := 0
	for id, err := range acked.err {
		if _, ok := slices.BinarySearch(sorted, id); err != nil {
			t.Errorf("command %d: %v (stored: %t)", id, err, ok)
		} else if !ok {
			t.Errorf("command %d was acknowledged and is not there", id)
		}
		answered++
	}
	if answered != 9*perRound {
		t.Errorf("%d commands were answered, %d sent", answered, 9*perRound)
	}
	for _, l := range logs {
		l.Kill()
	}
}

// TestClusterStopsInTurn: servers that stop as they should, one after the other,
// each come back before the next, never leave the others without a leader for
// longer than one that is killed.
func TestClusterStopsInTurn(t *testing.T) {
	if testing.Short() {
		t.Skip("servers go and come, and each time a leader is elected: not in short runs")
	}
	list := three(t)
	logs := openThree(t, list)
	seq := uint64(0)
	for round, gone := range []int{1, 2, 0, 1} {
		if round > 0 {
			last := []int{1, 2, 0, 1}[round-1]
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			l, err := log.Open(ctx, list[last])
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			logs[last] = l
			time.Sleep(3 * time.Second)
		}
		logs[gone].Close()
		began := time.Now()
		for i := range 2 {
			s := logs[(gone+1)%3].Lane(proto.LaneID(i))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			seq++
			_, err := s.Append(ctx, &proto.Entry{Lane: proto.LaneID(i), Producer: 1, Seq: seq, Time: 1, Count: 1, Commands: commands(int(seq), int(seq))})
			cancel()
			if err != nil {
				t.Fatalf("round %d, lane %d: %v", round, i, err)
			}
		}
		t.Logf("round %d: without node %d appends went on after %v", round, gone+1, time.Since(began))
	}
	for _, l := range logs {
		l.Kill()
	}
}

// numbers are the commands of a lane up to its end as a reader gets them.
func numbers(t *testing.T, s log.Stream) (all []int) {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	next := proto.Offset(1)
	take := func(r log.Record) error {
		next = r.Offset + 1
		e, err := proto.DecodeEntry(r.Data, 1)
		if err != nil {
			return err
		}
		for rest := e.Commands; len(rest) > 0; {
			var c proto.Command
			if c, rest, err = proto.NextCommand(rest); err != nil {
				return err
			}
			all = append(all, int(binary.BigEndian.Uint32(c.Body)))
		}
		if r.Offset == info.Last {
			return errEnough
		}
		return nil
	}
	for err = s.Read(ctx, next, take); proto.CodeOf(err) == proto.CodeUnavailable && ctx.Err() == nil; { // as whoever reads does
		err = s.Read(ctx, next, take)
	}
	if err != errEnough {
		t.Fatalf("reading ended with %v", err)
	}
	return all
}

// TestClusterKeepsStrangersOut: a server without the secret, or without a
// certificate of the cluster's authority, becomes no member.
func TestClusterKeepsStrangersOut(t *testing.T) {
	list := three(t)
	authority := newAuthority(t)
	for i := range list {
		list[i].Cluster.TLS, list[i].Cluster.Accept = authority.certificate(t, "127.0.0.1"), []string{"next"}
	}
	logs := openThree(t, list)
	appendAll(t, logs[2].Lane(1), 1, 3)
	const known = 2
	// A member that comes later is taken in, in the time that strangers are given,
	// with the secret that is to be the next.
	fourth := three(t)[0]
	fourth.Name, fourth.Cluster.Routes, fourth.Cluster.TLS, fourth.Cluster.Secret = "fourth", list[0].Cluster.Routes, list[0].Cluster.TLS, "next"
	l, routes, err := visit(t, fourth, logs[0])
	if routes != known+1 {
		t.Fatalf("with one that may come there were %d routes, %v", routes, err)
	}
	if err == nil {
		l.Kill()
	}
	for logs[0].Routes() > known {
		time.Sleep(5 * time.Millisecond) // until it is noticed that it went
	}
	for name, spoil := range map[string]func(c *log.Cluster){
		"another secret":                 func(c *log.Cluster) { c.Secret = "guess" },
		"no TLS":                         func(c *log.Cluster) { c.TLS = nil },
		"no certificate":                 func(c *log.Cluster) { c.TLS = c.TLS.Clone(); c.TLS.Certificates = nil },
		"a certificate of somebody else": func(c *log.Cluster) { c.TLS = newAuthority(t).certificate(t, "127.0.0.1") },
	} {
		stranger := three(t)[0]
		stranger.Name = "stranger"
		x := *list[0].Cluster
		x.Listen = stranger.Cluster.Listen
		stranger.Cluster = &x
		spoil(stranger.Cluster)
		l, routes, err := visit(t, stranger, logs[0])
		if routes != known {
			t.Errorf("%s: there were %d routes", name, routes)
		}
		if err == nil {
			t.Errorf("%s: the log was opened", name)
			l.Kill()
		} else if proto.CodeOf(err) != proto.CodeUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := read(t, logs[0].Lane(1), 1, 3); !slices.Equal(got, bodies(1, 3)) {
		t.Errorf("afterwards the log is %v", got)
	}
	for _, l := range logs {
		l.Kill()
	}
}

// visit opens a log for three seconds at most, and gives how many routes another
// had at most meanwhile.
func visit(t *testing.T, c log.Config, other *log.Log) (l *log.Log, routes int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		l, err = log.Open(ctx, c)
	}()
	for {
		routes = max(routes, other.Routes())
		select {
		case <-opened:
			return l, routes, err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestClusterConfigValidate(t *testing.T) {
	good := func() log.Config {
		c := config("x")
		c.Cluster = &log.Cluster{Name: "a", Listen: "127.0.0.1:1", Routes: []string{"127.0.0.1:1", "h:2"}, Secret: "s"}
		return c
	}
	c := good()
	if err := c.Validate(); err != nil || c.Cluster.Replicas != 2 {
		t.Errorf("%v, %d replicas", err, c.Cluster.Replicas)
	}
	for want, spoil := range map[string]func(c *log.Config){
		"cluster name":      func(c *log.Config) { c.Cluster.Name = "a b" },
		"not host:port":     func(c *log.Config) { c.Cluster.Listen = "127.0.0.1" },
		"secret":            func(c *log.Config) { c.Cluster.Secret = "" },
		"without TLS":       func(c *log.Config) { c.Cluster.Listen = "10.0.0.1:1" },
		"without TLS at :1": func(c *log.Config) { c.Cluster.Listen = ":1" },
		"replicas":          func(c *log.Config) { c.Cluster.Replicas = 6 },
		"another node":      func(c *log.Config) { c.Cluster.Routes = []string{"h"} },
		"external":          func(c *log.Config) { c.URL = "nats://h" },
	} {
		c := good()
		spoil(&c)
		want, _, _ = strings.Cut(want, " at ")
		if err := c.Validate(); proto.CodeOf(err) != proto.CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// authority signs certificates of test nodes.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool()}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// certificate makes both ends' configuration of a node.
func (a *authority) certificate(t testing.TB, ip string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(ip)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, x, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      a.pool, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

// A node whose address for the others is taken says so at once.
func TestClusterPortIsTaken(t *testing.T) {
	c := three(t)[0]
	l, err := net.Listen("tcp", c.Cluster.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := log.Open(ctx, c)
	if err == nil {
		got.Close()
		t.Fatal("it opened")
	}
	if ctx.Err() != nil || proto.CodeOf(err) != proto.CodeUnavailable || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("%v", err)
	}
}

// TestStreamsSayWhoIsMissing: of three servers one is removed, and each stream says
// that one fewer keeps it than should.
func TestStreamsSayWhoIsMissing(t *testing.T) {
	if testing.Short() {
		t.Skip("servers elect leaders: not in short runs")
	}
	logs := openThree(t, three(t))
	defer func() {
		for _, l := range logs {
			l.Kill()
		}
	}()
	names := []string{"KITH_AUDIT", "KITH_OUT_SEGMENTS_7"} // made when they are needed
	outlet := func() {
		t.Helper()
		if _, err := logs[1].Outlet(t.Context(), 7, "acme"); err != nil {
			t.Fatal(err)
		}
	}
	outlet()
	if _, err := logs[1].Audit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, x := range logs[0].Streams(t.Context()) {
		names = slices.DeleteFunc(names, func(name string) bool { return name == x.Stream })
	}
	if len(names) > 0 {
		t.Fatalf("nothing is said of %v", names)
	}
	missing := func(want int, only ...string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
			list := logs[0].Streams(t.Context())
			if len(only) > 0 {
				list = slices.DeleteFunc(list, func(x proto.StreamStatus) bool { return !slices.Contains(only, x.Stream) })
			}
			if !slices.ContainsFunc(list, func(x proto.StreamStatus) bool { return x.Missing != want || x.Leader == "" }) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("not %d are missing everywhere: %+v", want, list)
			}
		}
	}
	missing(0)
	js, err := jetstream.New(logs[0].Conn())
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "KITH_OUT_SEGMENTS_7")
	if err != nil {
		t.Fatal(err)
	}
	alone := s.CachedInfo().Config
	alone.Replicas = 1 // as of a node alone
	if err := logs[1].DropOutlet(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), alone); err != nil {
		t.Fatal(err)
	}
	missing(2, alone.Name)
	outlet()
	missing(0)
	// A stream whose copies are just made may find no leader once a server is gone.
	if err := logs[1].DropOutlet(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	outlet()
	missing(0)
	logs[2].Close()
	missing(0) // it is to come back
	if err := logs[0].RemoveServer(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	missing(1)
}

// led tells of streams who leads them, and of none that is not in it.
type led struct {
	jetstream.JetStream
	leaders map[string]string
}

type ledStream struct {
	jetstream.Stream
	leader string
}

func (x led) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if leader := x.leaders[name]; leader != "" {
		return ledStream{leader: leader}, ctx.Err()
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (x ledStream) CachedInfo() *jetstream.StreamInfo {
	return &jetstream.StreamInfo{Cluster: &jetstream.ClusterInfo{Leader: x.leader}}
}

// Streams of which nothing is heard leave time for those behind them.
func TestSilentStreamsHideNone(t *testing.T) {
	t.Parallel()
	names := make([]string, log.StatusesAtOnce, log.StatusesAtOnce+1)
	for i := range names {
		names[i] = fmt.Sprint("KITH_OUT_SEGMENTS_", i)
	}
	names = append(names, "KITH_AUDIT")
	list := log.Statuses(t.Context(), led{leaders: map[string]string{"KITH_AUDIT": "n2"}}, names)
	if x := list[len(list)-1]; x.Stream != "KITH_AUDIT" || x.Leader != "n2" {
		t.Errorf("behind streams without a leader one that has one is told as %+v", x)
	}
	if x := list[0]; x.Stream != names[0] || x.Leader != "" {
		t.Errorf("a stream that is silent is told as %+v", x)
	}
}

// TestRemoveServerNeverMet: all lose power and one does not come back. The others have
// not met it since their start, and it can be forgotten all the same, once.
func TestRemoveServerNeverMet(t *testing.T) {
	if testing.Short() {
		t.Skip("servers elect leaders: not in short runs")
	}
	list := three(t)
	for i, l := range openThree(t, list) {
		if got, want := log.PeerID(list[i].Name), l.Peer(); got != want {
			t.Errorf("the servers know %s by %q, not by %q", list[i].Name, want, got)
		}
		l.Kill()
	}
	logs := openAll(t, list[:2])
	defer func() {
		for _, l := range logs {
			l.Kill()
		}
	}()
	if err := logs[0].RemoveServer(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"n3", "n9"} {
		if err := logs[1].RemoveServer(t.Context(), gone); proto.CodeOf(err) != proto.CodeNotFound {
			t.Errorf("%s is no member and was removed: %v", gone, err)
		}
	}
}

// A removal whose answer got lost was made if the next answer knows of no such server;
// one that nobody was asked for was not.
func TestRemovalAskedAgain(t *testing.T) {
	type answer struct {
		code int
		err  error
	}
	for _, x := range []struct {
		first answer
		want  proto.Code
	}{
		{answer{err: context.DeadlineExceeded}, ""},
		{answer{code: log.Changing}, ""},
		{answer{err: nats.ErrNoResponders}, proto.CodeNotFound},
		{answer{code: log.NotMember}, proto.CodeNotFound},
	} {
		synctest.Test(t, func(t *testing.T) { // the pause between the questions
			answers := []answer{x.first, {code: log.NotMember}}
			err := log.UntilRemoved(t.Context(), func() (int, string, error) {
				a := answers[0]
				answers = answers[1:]
				return a.code, "", a.err
			})
			if got := proto.CodeOf(err); got != x.want {
				t.Errorf("after %+v: %v, want %q", x.first, err, x.want)
			}
		})
	}
}
