package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/proto"
)

// hosts is a page's event about third parties.
func hosts(c proto.ClientInfo, who, url, list string, at time.Time) *proto.Event {
	e := page(c, who, "", at)
	e.Name, e.URL = proto.HostsEvent, url
	e.Props = []proto.Prop{{Key: "left", Value: proto.NumberOf(2)}, {Key: proto.HostsProp, Value: proto.TextOf(list)}}
	return e
}

func leakage(t *testing.T, n *engine.Node, c proto.ClientInfo, days, floor int) proto.Leakage {
	t.Helper()
	x, err := n.Leakage(t.Context(), c, days, floor)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// A leakage report counts pages and people of each host, over all lanes, within
// its days, of the client alone; who opted out is in none of it.
func TestLeakage(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(3))
	defer func() { closeNode(t, n) }()
	c, _ := grouped(t, n, "alpha")
	other, _ := grouped(t, n, "beta")
	var list []*proto.Event
	for i := range 60 {
		who := fmt.Sprint("l", i)
		list = append(list, hosts(c, who, "https://News.example/a?x", "cdn.example ads.example", ago(3, 1)), hosts(c, who, "https://shop.example/", "cdn.example", ago(1, 1)))
		if i < 7 {
			list = append(list, hosts(c, who, "https://news.example/", "Rare.Example  rare.example", ago(2, 1)))
		}
		list = append(list, hosts(c, who, "https://news.example/", "old.example", ago(20, 1)), hosts(other, who, "https://news.example/", "theirs.example", ago(1, 1)))
	}
	list = append(list, hosts(c, "odd", "::", `<script> a/b "x" {} `+strings.Repeat("long.", 100), ago(1, 2)), page(c, "none", "x", ago(1, 3)))
	for part := range slices.Chunk(list, 200) {
		submit(t, n, part...)
	}
	day := func(days int) proto.Day { return proto.DayOf(ago(days, 0)) }
	want := proto.Leakage{
		Client: "alpha", Since: day(9).Start(), Pages: new(uint64(60 + 60 + 7 + 1)), Withheld: 0, Partitions: proto.Answered{Answered: 64, Of: 64},
		Hosts: []proto.ThirdParty{
			{Host: "cdn.example", Pages: 120, Identities: 60, First: day(3), Last: day(1), On: []string{"news.example", "shop.example"}},
			{Host: "ads.example", Pages: 60, Identities: 60, First: day(3), Last: day(3), On: []string{"news.example"}},
			{Host: "rare.example", Pages: 7, Identities: 7, First: day(2), Last: day(2), On: []string{"news.example"}},
		},
	}
	if d := gocmp.Diff(want, leakage(t, n, c, 10, 0)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	floored := leakage(t, n, c, 10, 50)
	if len(floored.Hosts) != 2 || floored.Withheld != 1 || floored.Pages == nil || *floored.Pages != 128 {
		t.Errorf("with a floor of 50: %+v", floored)
	}
	if all := leakage(t, n, c, 30, 0); len(all.Hosts) != 4 || !slices.ContainsFunc(all.Hosts, func(h proto.ThirdParty) bool { return h.Host == "old.example" && h.Pages == 60 }) {
		t.Errorf("over 30 days: %+v", all)
	}
	for i := range 3 {
		optOut(t, n, proto.Identity(fmt.Sprint("browser:l", i)), false)
	}
	settle(t, n)
	after := leakage(t, n, c, 10, 0)
	if *after.Pages != 128-9 || after.Hosts[0].Identities != 57 || after.Hosts[0].Pages != 114 || after.Hosts[2].Identities != 4 {
		t.Errorf("after three opt-outs: %+v", after)
	}
}

// Of fewer people than the floor it is not told how many pages they saw either.
func TestLeakageOfFew(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer closeNode(t, n)
	c := acme(t, n)
	see := func(first, last int) {
		for i := first; i < last; i++ {
			submit(t, n, hosts(c, fmt.Sprint("l", i), "https://news.example/", fmt.Sprintf("h%d.example", i), ago(1, 1)))
		}
	}
	if x := leakage(t, n, c, 10, 0); x.Pages == nil || *x.Pages != 0 {
		t.Errorf("of nobody, without a floor: %+v", x)
	}
	see(0, 9)
	if x := leakage(t, n, c, 10, 10); x.Pages != nil || len(x.Hosts) != 0 || x.Withheld != 9 {
		t.Errorf("of nine: %+v", x)
	}
	see(8, 10)
	if x := leakage(t, n, c, 10, 10); x.Pages == nil || *x.Pages != 11 || len(x.Hosts) != 0 {
		t.Errorf("of ten: %+v", x)
	}
	optOut(t, n, "browser:l3", false)
	if x := leakage(t, n, c, 10, 10); x.Pages != nil {
		t.Errorf("of nine again: %+v", x)
	}
}

// Whoever can send events can name any hosts: a report holds a bounded number.
func TestLeakageIsBounded(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer func() { closeNode(t, n) }()
	c, _ := grouped(t, n, "alpha")
	var list []*proto.Event
	for i := range 100 {
		var names []string
		for j := range 50 {
			names = append(names, fmt.Sprintf("h%d-%d.example", i, j))
		}
		list = append(list, hosts(c, "b", "https://a.example/", strings.Join(names, " "), ago(0, 0).Add(time.Duration(i)*time.Millisecond)))
	}
	submit(t, n, list...)
	if x := leakage(t, n, c, 2, 0); len(x.Hosts) != engine.LeakageHostsMax || !x.More || *x.Pages != 100 {
		t.Errorf("%d hosts, more: %t, %d pages", len(x.Hosts), x.More, *x.Pages)
	}
}
