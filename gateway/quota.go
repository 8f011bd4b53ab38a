package gateway

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"kith/proto"
)

// Quota is what one client may do; 0 is as for all, or without a limit. Each node
// counts what comes to itself, the day's events since its start.
type Quota struct {
	EventsPerSecond  float64 // on each plane
	EventsPerDay     int     // on both, of a day in UTC
	LookupsPerSecond float64 // identities
	OptOutsPerSecond float64 // identities, erasures and opt-ins among them
}

// dayCount is a client's events of a day.
type dayCount struct {
	mu  sync.Mutex
	day proto.Day
	n   int
}

// take counts n events of a day, unless they would be over most.
func (d *dayCount) take(day proto.Day, n, most int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if day != d.day {
		d.day, d.n = day, 0
	}
	if d.n+n > most {
		return false
	}
	d.n += n
	return true
}

// giveBack takes back that n events were counted on a day, unless it is over.
func (d *dayCount) giveBack(day proto.Day, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if day == d.day {
		d.n = max(d.n-n, 0)
	}
}

// giveBackDay gives n events of a day back, which were not stored.
func (g *Gateway) giveBackDay(client proto.ClientInfo, day proto.Day, n int) {
	if n == 0 {
		return
	}
	if v, ok := g.days.Load(client.ID); ok {
		v.(*dayCount).giveBack(day, n)
	}
}

// admitDay takes n events from the client's allowance of the day that it gives; 0
// if the client has none.
func (g *Gateway) admitDay(client proto.ClientInfo, n int) (proto.Day, error) {
	most := g.c.Quotas[client.Name].EventsPerDay
	if most == 0 {
		return 0, nil
	}
	if n > most {
		return 0, proto.Errorf(proto.CodeTooLarge, "the body has %d events, and this client may send %d a day: send fewer at once, or ask the operator for more", n, most)
	}
	v, _ := g.days.LoadOrStore(client.ID, &dayCount{})
	now := g.c.Now()
	if day := proto.DayOf(now); v.(*dayCount).take(day, n, most) {
		return day, nil
	}
	g.metrics.limited.Inc()
	e := proto.Errorf(proto.CodeRateLimited, "this client has sent its %d events of today: send again tomorrow (UTC), or ask the operator for more", most)
	e.RetryAfter = now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
	return 0, e
}

// defining is the context in which a key changes definitions, saved audiences and
// imports: the engine bounds what clients' own keys do.
func defining(r *http.Request, who proto.Principal) context.Context {
	if who.Role == proto.RoleAdmin {
		return r.Context()
	}
	return proto.ForItself(r.Context())
}

// countLimited counts an error that is one of a client's rate limit, and gives it.
func (g *Gateway) countLimited(err error) error {
	if proto.CodeOf(err) == proto.CodeRateLimited {
		g.metrics.limited.Inc()
	}
	return err
}

// admitLookups takes n identities from the client's allowance.
func (g *Gateway) admitLookups(client proto.ClientInfo, n int) error {
	if !g.limitsLookups {
		return nil
	}
	most := g.c.LookupsPerSecond
	if own := g.c.Quotas[client.Name].LookupsPerSecond; own != 0 {
		most = own
	}
	if most == 0 {
		return nil
	}
	v, ok := g.lookupLimiters.Load(client.ID)
	if !ok {
		v, _ = g.lookupLimiters.LoadOrStore(client.ID, rate.NewLimiter(rate.Limit(most), max(int(most), g.c.LookupMax)))
	}
	l := v.(*rate.Limiter)
	if l.AllowN(g.c.Now(), min(n, l.Burst())) {
		return nil
	}
	g.metrics.limited.Inc()
	e := proto.Errorf(proto.CodeRateLimited, "this client looks over %g identities/s up: slow down and ask again", most)
	e.RetryAfter = time.Second
	return e
}

// limitsSomeLookups reports whether any client's look-ups are limited: they are
// where every nanosecond counts.
func (c *Config) limitsSomeLookups() bool {
	for _, q := range c.Quotas {
		if q.LookupsPerSecond != 0 {
			return true
		}
	}
	return c.LookupsPerSecond != 0
}

func (c *Config) validateQuotas() error {
	if c.LookupsPerSecond < 0 {
		return proto.Errorf(proto.CodeInvalid, "look-ups are limited to %g identities/s: use 0 for no limit, or more", c.LookupsPerSecond)
	}
	if c.OptOutsPerSecond < 0 || c.OwnOptOutsPerSecond < 0 {
		return proto.Errorf(proto.CodeInvalid, "opt-outs are limited to %g identities/s by keys and %g by browsers: use 0 for no limit, or more", c.OptOutsPerSecond, c.OwnOptOutsPerSecond)
	}
	for name, q := range c.Quotas {
		if q.EventsPerSecond < 0 || q.EventsPerDay < 0 || q.LookupsPerSecond < 0 || q.OptOutsPerSecond < 0 {
			return proto.Errorf(proto.CodeInvalid, "the limits of client %q must not be negative: use 0 for what holds for all", name)
		}
	}
	return nil
}
