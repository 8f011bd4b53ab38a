package gateway

import (
	"hash/maphash"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// networkPlaces bounds the networks that are told apart.
const networkPlaces = 1 << 16

// networks are allowances of visitors' networks. A network has a place by a hash
// whose seed is made at the start: two may share one, but nobody can choose whose.
// What is kept is a time for each place; no address can be read out of it, and it
// is never written anywhere.
type networks struct {
	seed  maphash.Seed
	every time.Duration // in which one is gained
	burst int           // that may be taken at once
	due   [networkPlaces]atomic.Int64
}

func newNetworks(every time.Duration, burst int) *networks {
	return &networks{seed: maphash.MakeSeed(), every: every, burst: burst}
}

// take takes one from p's allowance, or gives how long it takes to gain one. A place that
// is due later than any allowance reaches was taken before the clock was set back, and
// begins anew: else all of the network would wait until the clock is there again.
func (n *networks) take(p netip.Prefix, now time.Time) (wait time.Duration) {
	due := &n.due[maphash.Comparable(n.seed, p)%networkPlaces]
	at := now.UnixNano()
	for {
		was := due.Load()
		before := was
		if before-at > int64(n.burst+1)*int64(n.every) { // one more, for requests that overtake each other
			before = at
		}
		next := max(before, at) + int64(n.every)
		if over := time.Duration(next-at) - time.Duration(n.burst)*n.every; over > 0 {
			return over
		}
		if due.CompareAndSwap(was, next) {
			return 0
		}
	}
}

// sharedAddresses are those that operators give to their customers' routers, which
// share others (RFC 6598): they tell customers apart no more than private ones.
var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")

// networkOf is the /24 or /48 that a request comes from, so that no address goes any
// further. It is not known where the connection is a proxy's and the proxy does not say.
func (g *Gateway) networkOf(r *http.Request) (p netip.Prefix, known bool) {
	name := g.addressHeader
	if name == "" {
		// A proxy passed it on, whose network would be everybody's.
		for _, by := range []string{"X-Forwarded-For", "Forwarded", "Via"} {
			if len(r.Header[by]) > 0 {
				return p, false
			}
		}
		return networkIn(r.RemoteAddr)
	}
	lines := r.Header[name]
	if len(lines) == 0 {
		return p, false
	}
	// What stands before it the visitor may have sent.
	last := lines[len(lines)-1]
	return networkIn(strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:]))
}

// networkOrProxy is networkOf, or else the network of the proxy that a request says passed
// it on, which anybody can say.
func (g *Gateway) networkOrProxy(r *http.Request) (p netip.Prefix, proxy, known bool) {
	p, known = g.networkOf(r)
	if proxy = !known && g.addressHeader == ""; proxy {
		p, known = networkIn(r.RemoteAddr)
	}
	return p, proxy, known
}

// networkIn is the /24 or /48 of an address, with or without a port.
func networkIn(text string) (p netip.Prefix, known bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		both, err := netip.ParseAddrPort(text)
		if err != nil {
			return p, false
		}
		a = both.Addr()
	}
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() || sharedAddresses.Contains(a) {
		return p, false
	}
	return cutAddress(a), true
}

// cutAddress is the /24 or /48 of an address without a zone.
func cutAddress(a netip.Addr) netip.Prefix {
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // fits
	return p
}
