package main

import (
	"net/url"
	"testing"
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
