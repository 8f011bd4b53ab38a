// Package demo is a small web site with kith's tag in it, and visitors that
// use it as people do: they browse by interest, come back, log in on several
// devices, buy, and now and then opt out.
//
// It talks to a node over HTTP only, as a tag and a client's server would, at
// a bounded rate. It writes nothing and keeps nothing but its visitors, in
// memory.
package demo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"kith/proto"
)

// Config says where the node is and how lively the demo shall be. The zero
// value of an optional field is its default.
type Config struct {
	Public  string // base URL of the node's public plane
	Service string // base URL of its service plane
	Key     string // of the demo's client, to define segments
	Client  string // default demo
	Listen  string // of the site; default 127.0.0.1:8090

	EventsPerSecond int    // default 20
	PeopleMax       int    // default 300
	Seed            uint64 // of the visitors' choices and accounts; default 1, with accounts of this run's own

	Log *slog.Logger // may be nil
}

func (c *Config) setDefaults() {
	c.Client = cmp.Or(c.Client, "demo")
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:8090")
	c.EventsPerSecond = cmp.Or(c.EventsPerSecond, 20)
	c.PeopleMax = cmp.Or(c.PeopleMax, 300)
	c.Seed = cmp.Or(c.Seed, 1)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Demo is a site and its visitors. Start makes one, Run keeps it going.
type Demo struct {
	c        Config
	site     net.Listener
	server   *http.Server
	visitors *visitors
	regular  string
}

// Start defines the demo's segments, opens the site, and lets one visitor
// come often enough to be in a segment.
func Start(ctx context.Context, c Config) (*Demo, error) {
	seeded := c.Seed != 0
	c.setDefaults()
	if c.EventsPerSecond < 0 || c.EventsPerSecond > 10_000 {
		return nil, proto.Errorf(proto.CodeInvalid, "a demo of %d events/s: use 1 to 10000", c.EventsPerSecond)
	}
	d := &Demo{c: c}
	d.visitors = newVisitors(d, c.Seed, c.PeopleMax)
	if !seeded {
		d.visitors.salt = rand.Text()
	}
	if err := d.define(ctx); err != nil {
		return nil, err
	}
	var err error
	if d.regular, err = d.visitors.regular(ctx); err != nil {
		return nil, err
	}
	if d.site, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, proto.Errorf(proto.CodeConflict, "the demo site cannot listen on %s: stop what listens there, or pass another address: %w", c.Listen, err)
	}
	d.server = &http.Server{Handler: newSite(d), ReadHeaderTimeout: 5 * time.Second}
	return d, nil
}

// Regular is the identity of a visitor that is in a segment already.
func (d *Demo) Regular() string { return d.regular }

// URL is where the site is.
func (d *Demo) URL() string { return "http://" + d.site.Addr().String() + "/" }

// Run serves the site and sends visitors until ctx is done.
func (d *Demo) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(d.site) }()
	d.visitors.run(ctx)
	err := d.server.Close()
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// define puts the demo's segments over the service plane, but for those that
// are there from an earlier run: each definition is an entry in the log.
func (d *Demo) define(ctx context.Context) error {
	var there struct{ Segments []proto.SegmentSpec }
	if err := d.ask(ctx, http.MethodGet, "/v1/segments", nil, &there); err != nil {
		return fmt.Errorf("list the demo's segments: %w", err)
	}
	for _, s := range Segments() {
		if slices.ContainsFunc(there.Segments, func(x proto.SegmentSpec) bool { return x.ID == s.ID && x.When == s.When && x.Scope == s.Scope }) {
			continue
		}
		if err := d.ask(ctx, http.MethodPut, "/v1/segments/"+url.PathEscape(string(s.ID)), s, nil); err != nil {
			return fmt.Errorf("define the demo's segment %s: %w", s.ID, err)
		}
	}
	return nil
}

// ask makes a request on the service plane.
func (d *Demo) ask(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, d.c.Service+path+"?client="+url.QueryEscape(d.c.Client), bytes.NewReader(body))
	if err != nil {
		return proto.Errorf(proto.CodeInvalid, "the service address %q is not valid: %w", d.c.Service, err)
	}
	r.Header.Set("Authorization", "Bearer "+d.c.Key)
	r.Header.Set("Content-Type", "application/json")
	return d.send(&http.Client{Timeout: requestTimeout}, r, out)
}

const requestTimeout = 10 * time.Second

// send sends r and reads the answer into out, if there is one.
func (d *Demo) send(client *http.Client, r *http.Request, out any) error {
	resp, err := client.Do(r)
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "cannot reach the node at %s: start one with `kith serve --dev`: %w", r.URL.Host, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return proto.Errorf(proto.CodeUnavailable, "the node at %s broke off its answer: %w", r.URL.Host, err)
	case resp.StatusCode/100 != 2:
		return answered(r.URL.Path, resp.Status, b)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return proto.Errorf(proto.CodeInvalid, "%s answered what is not JSON: %w", r.URL.Path, err)
	}
	return nil
}

// answered is the error in an answer of the node, or what else it said.
func answered(path, status string, b []byte) error {
	var body struct {
		Error struct {
			Code    proto.Code
			Message string
		}
	}
	if err := json.Unmarshal(b, &body); err != nil || body.Error.Message == "" {
		return proto.Errorf(proto.CodeInvalid, "%s answered %s: %.300s", path, status, b)
	}
	return proto.Errorf(body.Error.Code, "%s", body.Error.Message)
}

// Segments are the demo's, in an order in which each may name the ones before.
func Segments() []proto.SegmentSpec {
	rule := func(id proto.SegmentID, when string) proto.SegmentSpec {
		return proto.SegmentSpec{ID: id, Scope: "user", When: when, Backfill: true}
	}
	return []proto.SegmentSpec{
		rule("auto", `count(event.section == "auto", "30d") >= 3`),
		rule("sport-today", `days(event.section == "sport", "1d") >= 1`),
		rule("buyers", `count(event.name == "purchase", "30d") >= 1`),
		rule("lively", `count(true, "1m") >= 5`),
		rule("auto-prospects", `member("auto") && !member("buyers")`),
	}
}
