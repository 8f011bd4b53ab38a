package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"kith/proto"
)

// Several posts of a load share one query: to write into it is a race that ends the
// process.
func TestURLLeavesTheQueryAlone(t *testing.T) {
	c := connection{service: "127.0.0.1:1", client: "demo", getenv: func(string) string { return "" }}
	shared := url.Values{"bots": {"drop"}}
	if got, want := c.url("/v1/events", shared), "http://127.0.0.1:1/v1/events?bots=drop&client=demo"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(shared) != 1 {
		t.Errorf("the shared query became %v", shared)
	}
	if got, want := c.url("/v1/events", nil), "http://127.0.0.1:1/v1/events?client=demo"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A client's rules may be more than other answers that are read whole.
func TestManySegmentsAreListed(t *testing.T) {
	const many = 7000
	rule := strings.Repeat("x", 10_000)
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"segments":[{"id":"s"}`)
		for range many {
			fmt.Fprintf(w, `,{"id":"s","when":"%s"}`, rule)
		}
		_, _ = io.WriteString(w, "]}\n")
	}))
	t.Cleanup(node.Close)
	c := &connection{service: node.URL, key: "k", getenv: func(string) string { return "" }}
	cmd := newSegmentsListCommand(c)
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--service", node.URL, "--key", "k"})
	if err := cmd.Execute(); err != nil || out.Len() < many*len(rule) {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
}

// Who hits the bound of an answer is told so, not that the node sends something odd.
func TestTooLongAnAnswerIsSaidToBe(t *testing.T) {
	const answer = `{"segments":[{"id":"s"}]}`
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
	t.Cleanup(node.Close)
	c := &connection{service: node.URL, key: "k", getenv: func(string) string { return "" }}
	for most, want := range map[int64]proto.Code{int64(len(answer)): "", int64(len(answer)) - 1: proto.CodeTooLarge, 3: proto.CodeTooLarge} {
		r, err := c.request(t.Context(), http.MethodGet, "/v1/segments", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var out struct{ Segments []proto.SegmentSpec }
		if err := c.sendFor(r, &out, most); proto.CodeOf(err) != want || err == nil && len(out.Segments) != 1 {
			t.Errorf("at most %d bytes: %v, want %q", most, err, want)
		}
	}
}
