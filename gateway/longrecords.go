package gateway

import (
	"context"
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

// lines have those who wait for a turn to be read, or are, wait for others of the same
// share: who asks for many has no more of the line that is everybody's.
type lines struct {
	mu sync.Mutex
	of map[share]*line // guarded by mu
}

type line struct {
	slots chan struct{}
	here  int // guarded by lines.mu; who has a slot or waits for one
}

// asking is how many of a share wait for a turn, or are read, at once.
func (s share) asking() int {
	switch {
	case s.browser != "":
		return 1
	case s.network.IsValid():
		return 2
	}
	return 8
}

// enter takes a slot of each share, unless ctx ends before: then it is false.
func (l *lines) enter(ctx context.Context, shares []share) (leave func(), ok bool) {
	taken := 0
	leave = func() {
		for ; taken > 0; taken-- {
			<-l.to(shares[taken-1]).slots
			l.gone(shares[taken-1], 2)
		}
	}
	for _, s := range shares {
		select {
		case l.to(s).slots <- struct{}{}:
			taken++
		case <-ctx.Done():
			l.gone(s, 1)
			leave()
			return nil, false
		}
	}
	return leave, true
}

// to is a share's line with one more who is there.
func (l *lines) to(s share) *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.of[s]
	if x == nil {
		if l.of == nil {
			l.of = map[share]*line{}
		}
		x = &line{slots: make(chan struct{}, s.asking())}
		l.of[s] = x
	}
	x.here++
	return x
}

// gone takes so many off.
func (l *lines) gone(s share, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.of[s]; x.here == n {
		delete(l.of, s)
	} else {
		x.here -= n
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
