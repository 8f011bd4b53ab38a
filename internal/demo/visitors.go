package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"kith/proto"
)

// sections are what the site has; a person has a favourite.
var sections = []string{"home", "auto", "sport", "travel", "money", "food"}

// visitors are simulated people. One goroutine, that of run, owns all fields.
type visitors struct {
	demo   *Demo
	rand   *rand.Rand
	people []*person
	max    int
	made   int
	salt   string // of accounts: a node that was here before knows none of them; empty with a seed that was asked for
}

// person has a favourite section, an account and a few browsers.
type person struct {
	favourite string
	account   string
	browsers  []*browser
	stays     bool // never opts out
}

// loggedIn reports whether the person uses the account on some device.
func (p *person) loggedIn() bool {
	return slices.ContainsFunc(p.browsers, func(b *browser) bool { return b.loggedIn })
}

// browser is a cookie jar with two cookies in it.
type browser struct {
	id       string // kith_id
	optedOut bool   // kith_optout
	loggedIn bool
	agent    string
	refused  int // events, because of an opt-out
}

// refusedMost is how many events of a browser are refused before its person
// comes no more.
const refusedMost = 5

// event is an event as the tag sends it.
type event struct {
	Event      string         `json:"event"`
	Identities []string       `json:"identities,omitempty"`
	Props      map[string]any `json:"props,omitempty"`
	URL        string         `json:"url,omitempty"`
	Ref        string         `json:"ref,omitempty"`
}

func newVisitors(d *Demo, seed uint64, most int) *visitors {
	return &visitors{demo: d, rand: rand.New(rand.NewPCG(seed, 1)), max: most}
}

// regular sends a new visitor to the auto section until it belongs to the
// demo's first segment, lets it log in on a second device too, and gives its
// identity. It never opts out: who tries the demo looks at it.
func (v *visitors) regular(ctx context.Context) (string, error) {
	p := v.newPerson()
	p.favourite, p.stays = "auto", true
	if len(p.browsers) == 1 {
		p.browsers = append(p.browsers, &browser{agent: agents[len(agents)-1]})
	}
	b := p.browsers[0]
	for range 4 {
		if err := v.post(ctx, b, page("auto", v.rand.IntN(40))); err != nil {
			return "", err
		}
	}
	if b.id == "" {
		return "", proto.Errorf(proto.CodeInvalid, "the node set no kith_id cookie on a first visit: is --public its public plane?")
	}
	for _, b := range p.browsers[:2] {
		if err := v.logIn(ctx, p, b); err != nil {
			return "", err
		}
	}
	return "browser:" + b.id, nil
}

// run sends events at the configured rate. When the node does not answer it
// goes on, more slowly, and says so once.
func (v *visitors) run(ctx context.Context) {
	every := time.NewTicker(time.Second / time.Duration(v.demo.c.EventsPerSecond))
	defer every.Stop()
	failed, skip := false, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		if skip > 0 {
			skip--
			continue
		}
		err := v.step(ctx)
		switch {
		case err == nil:
			failed = false
		case ctx.Err() != nil:
			return
		default:
			if !failed {
				v.demo.c.Log.Warn("a demo visitor was turned away; the demo goes on", "error", err)
			}
			failed, skip = true, v.demo.c.EventsPerSecond
		}
	}
}

// step lets one person do one thing.
func (v *visitors) step(ctx context.Context) error {
	p := v.somebody()
	b := p.browsers[v.rand.IntN(len(p.browsers))]
	if b.refused >= refusedMost && !p.stays {
		// Somebody new comes instead: else all are out in the end, and nothing
		// that a demo of some hours sends is taken.
		v.people = slices.DeleteFunc(v.people, func(x *person) bool { return x == p })
		p = v.newPerson()
		b = p.browsers[0]
	}
	switch dice := v.rand.IntN(1000); {
	case dice < 3 && !b.optedOut && !p.stays:
		return v.optOut(ctx, p, b)
	case dice < 60 && !b.loggedIn, dice < 400 && !b.loggedIn && p.loggedIn():
		return v.logIn(ctx, p, b)
	case dice < 90:
		price := float64(v.rand.IntN(20000)) / 100
		return v.post(ctx, b, event{Event: "purchase", URL: "/shop/checkout", Props: map[string]any{"section": p.favourite, "price": price}})
	case dice < 250:
		return v.post(ctx, b, page(sections[v.rand.IntN(len(sections))], v.rand.IntN(40)))
	default:
		return v.post(ctx, b, page(p.favourite, v.rand.IntN(40)))
	}
}

// somebody is a new person at first and one known later, some of them more
// often than others.
func (v *visitors) somebody() *person {
	if len(v.people) < v.max && (len(v.people) < 10 || v.rand.IntN(20) == 0) {
		return v.newPerson()
	}
	i := min(v.rand.IntN(len(v.people)), v.rand.IntN(len(v.people)))
	return v.people[i]
}

func (v *visitors) newPerson() *person {
	v.made++
	hash := sha256.Sum256(fmt.Appendf(nil, "demo person %d of seed %d%s", v.made, v.demo.c.Seed, v.salt))
	p := &person{favourite: sections[v.rand.IntN(len(sections))], account: "account:" + hex.EncodeToString(hash[:16])}
	for i := range 1 + v.rand.IntN(3) {
		p.browsers = append(p.browsers, &browser{agent: agents[(v.made+i)%len(agents)]})
	}
	v.people = append(v.people, p)
	return p
}

var agents = []string{
	"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
	"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Mobile Safari/537.36",
}

func page(section string, n int) event {
	return event{Event: "page", URL: fmt.Sprintf("/%s/%d", section, n), Ref: "/", Props: map[string]any{"section": section}}
}

// post sends events as the tag does, with the browser's cookies, and keeps the
// cookies that come back.
func (v *visitors) post(ctx context.Context, b *browser, events ...event) error {
	body, err := json.Marshal(map[string]any{"client": v.demo.c.Client, "events": events})
	if err != nil {
		return err
	}
	var answer struct {
		Refused []struct{ Code, Message string }
	}
	if err := v.demo.browse(ctx, b, "/v1/events", "text/plain", body, &answer); err != nil {
		return err
	}
	for _, r := range answer.Refused {
		if r.Code != string(proto.CodeOptedOut) {
			return proto.Errorf(proto.Code(r.Code), "the node refused an event of the demo: %s", r.Message)
		}
		b.refused++
	}
	return nil
}

// logIn names the account beside the browser: by it the devices of a person
// become one user. Whoever is logged in on one device soon is on the others.
func (v *visitors) logIn(ctx context.Context, p *person, b *browser) error {
	b.loggedIn = true
	return v.post(ctx, b, event{Event: "login", Identities: []string{p.account}, Props: map[string]any{"section": "account"}})
}

// optOut takes one browser out, or for every second person that has an
// account the whole of them.
func (v *visitors) optOut(ctx context.Context, p *person, b *browser) error {
	body := []byte("{}")
	if p.loggedIn() && v.rand.IntN(2) == 0 {
		body = []byte(`{"everywhere":true}`)
	}
	return v.demo.browse(ctx, b, "/v1/optout", "application/json", body, nil)
}

// browse makes a request as the browser b would from the demo site, and reads
// the answer into out.
func (d *Demo) browse(ctx context.Context, b *browser, path, contentType string, body []byte, out any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.c.Public+path, bytes.NewReader(body))
	if err != nil {
		return proto.Errorf(proto.CodeInvalid, "the public address %q is not valid: %w", d.c.Public, err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("User-Agent", b.agent)
	r.Header.Set("Origin", "http://"+d.c.Listen)
	r.Header.Set("Sec-Fetch-Site", "same-site")
	if b.id != "" {
		r.AddCookie(&http.Cookie{Name: "kith_id", Value: b.id})
	}
	if b.optedOut {
		r.AddCookie(&http.Cookie{Name: "kith_optout", Value: "1"})
	}
	return d.send(&http.Client{Timeout: requestTimeout, Transport: cookieKeeper{b}}, r, out)
}

// cookieKeeper notes a browser's cookies. net/http's own jar would not send
// cookies marked Secure to a node on plain HTTP, which browsers do on loopback.
type cookieKeeper struct{ b *browser }

// RoundTrip implements http.RoundTripper.
func (k cookieKeeper) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	for _, c := range resp.Cookies() {
		gone := c.MaxAge < 0 || c.Value == ""
		switch {
		case c.Name == "kith_id" && gone:
			k.b.id = ""
		case c.Name == "kith_id":
			k.b.id = c.Value
		case c.Name == "kith_optout":
			k.b.optedOut = !gone
		}
	}
	return resp, nil
}
