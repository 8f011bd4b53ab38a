package identity_test

import (
	"fmt"
	"testing"

	"kith/actors/identity"
	"kith/proto"
)

// BenchmarkVisit is a page view of an identity and the state that is stored after it,
// without rules.
func BenchmarkVisit(b *testing.B) {
	var s identity.State
	var fx identity.Effects
	step := identity.NewStepper(noRules{})
	e := &proto.Event{Client: 1, Space: 1, EventBody: proto.EventBody{Name: "page_view", Ref: "https://search.example/?q=used+cars"}}
	for _, k := range []string{"section", "author", "country"} {
		e.Props = append(e.Props, proto.Prop{Key: k, Value: proto.TextOf(k[:2])})
	}
	pages := make([]string, 64)
	for i := range pages {
		pages[i] = fmt.Sprintf("https://news.example.com/cars/2026/a-long-enough-name-of-an-article-x%06d.html", i)
	}
	var buf []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		now := proto.Millis(1_750_000_000_000 + i*1000)
		e.URL, e.Time = pages[i%len(pages)], now
		fx.Reset()
		step.Step(&s, &identity.Input{Kind: identity.InputEvent, Client: 1, Event: e}, now, &fx)
		buf = s.Append(buf[:0])
	}
}
