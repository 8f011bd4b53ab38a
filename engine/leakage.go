package engine

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

// This file makes leakage reports: which third parties' hosts a client's pages
// asked, as its tags told in events of proto.HostsEvent.

const (
	// leakageHostsMax bounds the hosts of a report: whoever can send events can
	// name any.
	leakageHostsMax = 4096
	leakageOnMax    = 5 // of the client's own hosts, for each
)

// Leakage counts the third parties of the events of the last days, today
// included. With a floor nothing is told of a host that fewer identities met, nor of
// pages if fewer saw any.
func (n *Node) Leakage(ctx context.Context, client proto.ClientInfo, days, floor int) (proto.Leakage, error) {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return proto.Leakage{}, err
	}
	defer done()
	over, err := n.campaigns.turn(ctx, client.ID)
	if err != nil {
		return proto.Leakage{}, err
	}
	defer over()
	since := proto.DayOf(n.config.Now()) - proto.Day(days-1)
	s := &leakageScan{node: n, client: client, since: proto.MillisOf(since.Start()), hosts: map[string]*thirdParty{}, turns: turns{node: n}}
	out := proto.Leakage{Client: client.Name, Since: since.Start(), Partitions: proto.Answered{Of: proto.Partitions}}
	var lanes []*campaignLane
	for _, l := range n.lanes {
		if h := l.holdHistories(client.ID); h != nil {
			defer h.release()
			lanes = append(lanes, h)
			out.Partitions.Answered += len(l.partitions)
		}
	}
	if err := s.count(ctx, lanes); err != nil {
		return proto.Leakage{}, err
	}
	out.More = s.more
	if s.identities >= int64(floor) {
		out.Pages = new(uint64(max(s.pages, 0)))
	}
	out.Hosts, out.Withheld = s.tell(int64(max(floor, 1)))
	return out, n.mayAnswerAll()
}

// thirdParty is a host under way.
type thirdParty struct {
	identities, pages int64
	days              map[proto.Day]int64 // pages
	on                map[string]int64    // pages of the client's own hosts
	last              proto.Ordinal       // that was counted, of the lane and the pass under way
	page              uint64              // that was counted last
}

type leakageScan struct {
	node   *Node
	client proto.ClientInfo
	since  proto.Millis
	hosts  map[string]*thirdParty
	// Pages that told of hosts, and who saw any.
	pages, identities int64
	more              bool
	turns             turns
	page              uint64 // the number of the one under way, of all that are read
}

// count counts lanes, each as of one commit, and takes back whoever is not known any
// more once all are.
func (s *leakageScan) count(ctx context.Context, lanes []*campaignLane) error {
	for _, l := range lanes {
		if err := s.pass(ctx, l, l.known, 1); err != nil {
			return err
		}
	}
	for range takeBackRounds {
		if s.node.campaigns.looked != nil {
			s.node.campaigns.looked()
		}
		more := false
		for _, l := range lanes {
			left := l.gone()
			if left.IsEmpty() {
				continue
			}
			more = true
			if err := s.pass(ctx, l, left, -1); err != nil {
				return err
			}
			l.known.AndNot(left)
		}
		if !more {
			return nil
		}
	}
	return errErasedMeanwhile
}

// pass adds what a set of identities met, or takes it away.
func (s *leakageScan) pass(ctx context.Context, l *campaignLane, set *roaring.Bitmap, sign int64) error {
	for _, x := range s.hosts {
		x.last = ^proto.Ordinal(0)
	}
	it := set.Iterator()
	for i := 0; it.HasNext(); i++ {
		if i%campaignPause == 0 {
			if err := s.turns.give(ctx); err != nil {
				return err
			}
		}
		if err := s.ordinal(ctx, l, proto.Ordinal(it.Next()), sign); err != nil {
			return err
		}
	}
	return nil
}

func (s *leakageScan) ordinal(ctx context.Context, l *campaignLane, o proto.Ordinal, sign int64) error {
	node, found, err := l.nodeOf(l.snap, o)
	if err != nil || !found {
		return err
	}
	state, _, err := readNode(l.snap, node)
	if err != nil || state.Dark() {
		return err
	}
	f := state.Client(s.client.ID)
	if f == nil {
		return nil
	}
	h := history{snap: l.snap, node: node, gen: state.Gen(), facts: f}
	pages := s.pages
	h.walk(func(t proto.Millis, e *proto.EventBody) bool {
		if t >= s.since && e.Name == proto.HostsEvent {
			s.event(o, t, e, sign)
		}
		return s.turns.event(ctx) == nil
	})
	if s.pages != pages {
		s.identities += sign
	}
	return cmp.Or(h.err, givenUp(ctx))
}

// event counts one page's hosts, each once.
func (s *leakageScan) event(o proto.Ordinal, t proto.Millis, e *proto.EventBody, sign int64) {
	i := slices.IndexFunc(e.Props, func(p proto.Prop) bool { return p.Key == proto.HostsProp })
	if i < 0 {
		return
	}
	s.pages += sign
	s.page++
	on := ""
	if u, err := url.Parse(e.URL); err == nil {
		on = strings.ToLower(u.Hostname())
	}
	for name := range strings.FieldsSeq(e.Props[i].Value.Text) {
		x := s.host(strings.ToLower(name))
		if x == nil || x.page == s.page {
			continue
		}
		x.page = s.page
		if x.last != o {
			x.identities, x.last = x.identities+sign, o
		}
		x.pages += sign
		x.days[t.Day()] += sign
		if _, there := x.on[on]; there || on != "" && len(x.on) < leakageOnMax {
			x.on[strings.Clone(on)] += sign
		}
	}
}

// host is the row of a name, nil if it is none or there is no room.
func (s *leakageScan) host(name string) *thirdParty {
	x := s.hosts[name]
	if x != nil || !proto.IsHost(name) {
		return x
	}
	if len(s.hosts) == leakageHostsMax {
		s.more = true
		return nil
	}
	x = &thirdParty{days: map[proto.Day]int64{}, on: map[string]int64{}, last: ^proto.Ordinal(0)}
	s.hosts[strings.Clone(name)] = x
	return x
}

// tell gives the hosts that enough identities met, and of how many others it
// does not tell.
func (s *leakageScan) tell(floor int64) (list []proto.ThirdParty, withheld int) {
	list = []proto.ThirdParty{}
	for name, x := range s.hosts {
		if x.identities <= 0 {
			continue
		}
		if x.identities < floor {
			withheld++
			continue
		}
		row := proto.ThirdParty{Host: name, Identities: uint64(x.identities), Pages: uint64(max(x.pages, 0)), First: ^proto.Day(0), On: []string{}}
		for day, pages := range x.days {
			if pages > 0 {
				row.First, row.Last = min(row.First, day), max(row.Last, day)
			}
		}
		for on, pages := range x.on {
			if pages > 0 {
				row.On = append(row.On, on)
			}
		}
		slices.Sort(row.On)
		list = append(list, row)
	}
	slices.SortFunc(list, func(a, b proto.ThirdParty) int {
		return cmp.Or(cmp.Compare(b.Identities, a.Identities), cmp.Compare(b.Pages, a.Pages), cmp.Compare(a.Host, b.Host))
	})
	return list, withheld
}
