package engine_test

import (
	"context"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kith/engine"
	"kith/proto"
)

// neighbours are what a node knows of the others.
type neighbours struct {
	owners
	nodes []proto.NodeStatus
}

func (n *neighbours) Nodes() []proto.NodeStatus { return n.nodes }

func connectNATS(t *testing.T) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(startNATS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// TestAsk: a question goes to a node that says it answers, to a second one if the
// first is silent or cannot either, and ends with the caller's patience.
func TestAsk(t *testing.T) {
	nc := connectNATS(t)
	peers := &neighbours{nodes: []proto.NodeStatus{{Name: "n1", Ready: true}, {Name: "n2", Ready: true}, {Name: "n3", Ready: true, Draining: true}, {Name: "n4"}}}
	status := map[string]*atomic.Int32{}
	var said []string
	for _, name := range []string{"n2", "n3", "n4"} {
		status[name] = &atomic.Int32{}
		n := engine.NewAsker(name, nc, peers)
		go func() {
			_ = n.AnswerOthers(t.Context(), func(_ context.Context, q *proto.Question) *proto.Reply {
				s := int(status[name].Load())
				if s == 0 { // silent
					<-t.Context().Done()
					return &proto.Reply{Status: http.StatusGatewayTimeout}
				}
				return &proto.Reply{Status: s, Header: map[string][]string{"Content-Type": {"text/plain"}}, Body: []byte(name + " " + q.Method + " " + q.Target + " " + strings.Join(q.Header["Authorization"], "") + strings.Join(q.Header["Nats-Msg-Id"], "+") + " " + string(q.Body))}
			})
		}()
	}
	asker := engine.NewAsker("n1", nc, peers)
	ask := func(wait time.Duration, body string) (*proto.Reply, error) {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		return asker.Ask(ctx, &proto.Question{Method: "POST", Target: "/v1/lookup?after=0:1", Header: map[string][]string{"Authorization": {"Bearer k"}, "Nats-Msg-Id": {"1", "2"}}, Body: []byte(body)})
	}
	want := func(node string) {
		t.Helper()
		r, err := ask(10*time.Second, "hello")
		if err != nil || r.Status != 200 || strings.Join(r.Header["Content-Type"], "") != "text/plain" || string(r.Body) != node+" POST /v1/lookup?after=0:1 Bearer k1+2 hello" {
			t.Fatalf("%+v, %v", r, err)
		}
		said = append(said, node)
	}
	for _, x := range []struct{ n2, n3 int32 }{{200, 200}, {200, 0}, {200, 503}} { // who drains comes last
		status["n2"].Store(x.n2)
		status["n3"].Store(x.n3)
		status["n4"].Store(200) // says that it does not answer: nobody asks it
		// Subscriptions may not be there yet.
		if len(said) == 0 {
			for {
				if r, err := ask(time.Second, "hello"); err == nil && strings.HasPrefix(string(r.Body), "n2") {
					break
				}
			}
		}
		want("n2")
	}
	for _, x := range []struct{ n2, n3 int32 }{{0, 200}, {503, 200}} {
		status["n2"].Store(x.n2)
		status["n3"].Store(x.n3)
		want("n3")
	}
	status["n2"].Store(404) // an answer, even if it is a refusal
	status["n3"].Store(0)
	if r, err := ask(10*time.Second, ""); err != nil || r.Status != 404 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, x := range []struct {
		name   string
		n2, n3 int32
	}{{"all silent", 0, 0}, {"none can", 503, 503}, {"one cannot, one is silent", 503, 0}} {
		status["n2"].Store(x.n2)
		status["n3"].Store(x.n3)
		if r, err := ask(300*time.Millisecond, ""); proto.CodeOf(err) != proto.CodeUnavailable {
			t.Errorf("%s: %+v, %v", x.name, r, err)
		}
	}
	if _, err := ask(10*time.Second, strings.Repeat("x", 2<<20)); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("a question of 2 MiB: %v", err)
	}
	peers.nodes = slices.Delete(peers.nodes, 1, 3)
	if _, err := ask(10*time.Second, ""); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("nobody there: %v", err)
	}
}

// TestAskedNonsense: whatever comes on the subject of questions is answered or
// dropped, and the node goes on.
func TestAskedNonsense(t *testing.T) {
	nc := connectNATS(t)
	peers := &neighbours{}
	n := engine.NewAsker("n2", nc, peers)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- n.AnswerOthers(ctx, func(_ context.Context, q *proto.Question) *proto.Reply {
			if q.Target == "/large" {
				return &proto.Reply{Status: 200, Body: make([]byte, 2<<20)}
			}
			return &proto.Reply{Status: 200, Body: []byte(q.Method + q.Target)}
		})
	}()
	request := func(header nats.Header, data []byte) (*nats.Msg, error) {
		return nc.RequestMsg(&nats.Msg{Subject: "_KITH.ask.n2", Header: header, Data: data}, time.Second)
	}
	for { // until it listens
		if _, err := request(nil, nil); err == nil {
			break
		}
	}
	for _, x := range []struct {
		name   string
		header nats.Header
		data   []byte
		status string
	}{
		{"no headers", nil, []byte("GET /"), "200"},
		{"empty headers", nats.Header{"Kith-Method": {""}, "Kith-Target": {""}}, nil, "200"},
		{"a budget of nonsense", nats.Header{"Kith-Budget": {"-1"}}, nil, "200"},
		{"a budget of centuries", nats.Header{"Kith-Budget": {"99999999999999999999"}}, nil, "200"},
		{"an unknown header", nats.Header{"Kith-Principal": {"admin"}}, nil, "200"},
		{"bytes", nil, []byte{0xff, 0, 0xfe}, "200"},
		{"a large answer", nats.Header{"Kith-Method": {"GET"}, "Kith-Target": {"/large"}}, nil, "503"},
	} {
		m, err := request(x.header, x.data)
		if err != nil || m.Header.Get("Kith-Status") != x.status {
			t.Errorf("%s: %+v, %v", x.name, m, err)
		}
	}
	if err := nc.Publish("_KITH.ask.n2", []byte("no reply subject")); err != nil {
		t.Error(err)
	}
	if _, err := request(nil, nil); err != nil {
		t.Errorf("after nonsense: %v", err)
	}
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Error(err)
	}
}

// TestAskAudited: who keeps a question in the audit log goes along with it, and no
// header of a caller says it.
func TestAskAudited(t *testing.T) {
	nc := connectNATS(t)
	peers := &neighbours{nodes: []proto.NodeStatus{{Name: "n2", Ready: true}}}
	go func() {
		_ = engine.NewAsker("n2", nc, peers).AnswerOthers(t.Context(), func(_ context.Context, q *proto.Question) *proto.Reply {
			return &proto.Reply{Status: http.StatusOK, Body: strconv.AppendBool(nil, q.Audited)}
		})
	}()
	asker := engine.NewAsker("n1", nc, peers)
	for _, audited := range []bool{true, false} {
		q := &proto.Question{Method: "GET", Target: "/v1/segments", Header: map[string][]string{"Kith-Audited": {"1"}}, Audited: audited}
		for {
			r, err := asker.Ask(t.Context(), q)
			if err != nil { // its subscription may not be there yet
				runtime.Gosched()
				continue
			}
			if string(r.Body) != strconv.FormatBool(audited) {
				t.Errorf("audited %t is taken for %s", audited, r.Body)
			}
			break
		}
	}
}
