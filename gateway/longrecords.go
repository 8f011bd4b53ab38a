package gateway

import (
	"net/http"
	"net/netip"
	"sync"

	"kith/proto"
)

// Bounds of the long records that are being sent on each plane, and of those that are of
// one browser, from one network or one proxy that is not ours, and of the keys of one
// client: who reads slowly keeps a place for minutes.
const (
	longRecordsMax = 16
	longBrowserMax = 1
	longNetworkMax = 4
	longProxyMax   = 8
	longClientMax  = 2
)

// middleTimes is how many times as many records may be under way that are a piece at most,
// but more than a socket takes in: one of those is sent whole, and in a minute.
const middleTimes = 16

// longRecords are a plane's records of a kind that are being sent.
type longRecords struct {
	kind  string
	times int // the bounds
	mu    sync.Mutex
	all   int           // guarded by mu
	of    map[share]int // guarded by mu; none is 0
}

// share is by what records are counted: one of these.
type share struct {
	browser proto.Identity
	network netip.Prefix
	proxy   netip.Prefix
	client  proto.ClientName // whose key asked
}

func (s share) most() int {
	switch {
	case s.browser != "":
		return longBrowserMax
	case s.network.IsValid():
		return longNetworkMax
	case s.proxy.IsValid():
		return longProxyMax
	}
	return longClientMax
}

func (s share) String() string {
	switch {
	case s.browser != "":
		return "of this browser"
	case s.network.IsValid():
		return "to your network"
	case s.proxy.IsValid():
		return "through your proxy"
	}
	return "for keys of client " + string(s.client)
}

// begin counts one more, or says why not. After nil, end is due.
func (l *longRecords) begin(shares []share) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if most := longRecordsMax * l.times; l.all >= most {
		return proto.Errorf(proto.CodeOverloaded, "%d %s records of identities are being sent: ask again when one is done", most, l.kind)
	}
	for _, s := range shares {
		if most := s.most() * l.times; l.of[s] >= most {
			return proto.Errorf(proto.CodeOverloaded, "%s records %s are being sent, %d at once: ask again when one is done", l.kind, s, most)
		}
	}
	if l.of == nil {
		l.of = map[share]int{}
	}
	l.all++
	for _, s := range shares {
		l.of[s]++
	}
	return nil
}

func (l *longRecords) end(shares []share) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	for _, s := range shares {
		if l.of[s]--; l.of[s] == 0 {
			delete(l.of, s)
		}
	}
}

// sharesOf are those of a visitor.
func (g *Gateway) sharesOf(r *http.Request, browser proto.Identity) []share {
	list := []share{{browser: browser}}
	switch p, proxy, known := g.networkOrProxy(r); {
	case known && proxy:
		list = append(list, share{proxy: p})
	case known:
		list = append(list, share{network: p})
	}
	return list
}
