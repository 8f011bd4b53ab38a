package engine_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kith/engine"
	"kith/proto"
)

// benchNode is a node with n segments of which an event matches about five.
func benchNode(b *testing.B, segments int) (*engine.Node, proto.ClientInfo) {
	b.Helper()
	n, err := engine.Open(b.Context(), engine.Config{
		Dir: b.TempDir(), LogBytesMax: 4 << 30, DiskReserve: 1 << 20,
		Boot: []engine.BootKey{{Client: "acme", Role: proto.RoleClient, SHA256: sha256.Sum256([]byte("key"))}},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.Close() })
	c, _ := n.Client("acme")
	var wait sync.WaitGroup
	for i := range segments {
		wait.Go(func() {
			when := fmt.Sprintf(`count(event.section == "s%d", "30d") >= %d`, i%20, 1+i/20)
			if i >= 100 {
				when = fmt.Sprintf(`count(event.section == "other%d", "30d") >= 1`, i)
			}
			if _, err := n.Define(b.Context(), c, proto.SegmentSpec{ID: proto.SegmentID(fmt.Sprint("seg", i)), Scope: "identity", When: when}); err != nil {
				b.Error(err)
			}
		})
	}
	wait.Wait()
	return n, c
}

// benchBatches are packed batches of 200 events of bursts by visitors.
func benchBatches(n *engine.Node, c proto.ClientInfo, batches, visitors int) []*proto.Batch {
	r := rand.New(rand.NewPCG(1, 2))
	list := make([]*proto.Batch, batches)
	now := proto.MillisOf(time.Now())
	for i := range list {
		x := &proto.Batch{}
		for x.Len() < 200 {
			v := r.IntN(visitors)
			for range 1 + r.IntN(5) {
				x.AddEvent(n.Hasher(), &proto.Event{
					Client: c.ID, Space: c.Space, Time: now, Received: now,
					Identities: []proto.Identity{proto.Identity(fmt.Sprintf("browser:%032x", v))},
					EventBody: proto.EventBody{Name: "page", URL: fmt.Sprintf("https://news.example/s/%d", r.IntN(1000)), Props: []proto.Prop{
						{Key: "section", Value: proto.TextOf(fmt.Sprint("s", r.IntN(20)))},
						{Key: "price", Value: proto.NumberOf(float64(r.IntN(100)))},
					}},
				})
			}
		}
		list[i] = x
	}
	return list
}

// BenchmarkIngest is durable to queryable: the clock stops when the last event
// is published.
func BenchmarkIngest(b *testing.B) {
	for _, visitors := range []int{20_000, 200_000} {
		b.Run(fmt.Sprint("visitors=", visitors), func(b *testing.B) {
			n, c := benchNode(b, 100)
			batches := benchBatches(n, c, 400, visitors)
			events := drive(b, n, batches)
			b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(events), "ns/event")
		})
	}
}

// drive submits b.N batches from eight callers and returns when the last command
// is published; it gives how many commands there were.
func drive(b *testing.B, n *engine.Node, batches []*proto.Batch) (commands int) {
	b.ResetTimer()
	var mu sync.Mutex
	next := 0
	last := proto.Position{}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= b.N {
					return
				}
				x := batches[i%len(batches)]
				r := n.Submit(context.Background(), x)
				if r.Err != nil {
					b.Error(r.Err)
					return
				}
				mu.Lock()
				commands += x.Len()
				for l, o := range r.Position {
					last[l] = max(last[l], o)
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if err := n.Wait(context.Background(), last); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	return commands
}

// BenchmarkLinks links new browsers to accounts, two to five of them to each,
// in random order: durable to published.
func BenchmarkLinks(b *testing.B) {
	n, c := benchNode(b, 0)
	r := rand.New(rand.NewPCG(1, 3))
	batches := make([]*proto.Batch, b.N)
	now := proto.MillisOf(time.Now())
	for i := range batches {
		batches[i] = &proto.Batch{}
		for range 200 {
			batches[i].AddLink(n.Hasher(), &proto.LinkCommand{
				Client: c.ID, Space: c.Space, Received: now, Confidence: 1000,
				A: proto.Identity(fmt.Sprintf("browser:%032x", r.Uint64())), B: proto.Identity(fmt.Sprintf("account:%d", r.IntN(1+b.N*60))),
			})
		}
	}
	links := drive(b, n, batches)
	b.ReportMetric(float64(links)/b.Elapsed().Seconds(), "links/s")
}

// BenchmarkOptOuts cuts the middle of users of three: one identity a call from
// 64 callers, and 100 a call from eight.
func BenchmarkOptOuts(b *testing.B) {
	for _, x := range []struct{ callers, list int }{{64, 1}, {8, 100}} {
		b.Run(fmt.Sprintf("callers=%d/list=%d", x.callers, x.list), func(b *testing.B) {
			n, c := benchNode(b, 0)
			linkThrees(b, n, c, b.N*x.list)
			b.ResetTimer()
			b.SetParallelism(x.callers / runtime.GOMAXPROCS(0))
			var next atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					from := int(next.Add(int64(x.list))) - x.list
					ids := make([]proto.Identity, x.list)
					for i := range ids {
						ids[i] = proto.Identity(fmt.Sprintf("account:a%d", from+i))
					}
					list, err := n.OptOutAll(context.Background(), proto.ClientInfo{}, ids, false)
					for i := range list {
						if err == nil && !list[i].Final {
							err = fmt.Errorf("%+v is not final", list[i])
						}
					}
					if err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N*x.list)/b.Elapsed().Seconds(), "optouts/s")
		})
	}
}

// linkThrees makes users of an account and two browsers.
func linkThrees(b *testing.B, n *engine.Node, c proto.ClientInfo, users int) {
	b.Helper()
	now := proto.MillisOf(time.Now())
	x := &proto.Batch{}
	for i := range users {
		for k := range 2 {
			x.AddLink(n.Hasher(), &proto.LinkCommand{
				Client: c.ID, Space: c.Space, Received: now, Confidence: 1000,
				A: proto.Identity(fmt.Sprintf("browser:%d-%d", i, k)), B: proto.Identity(fmt.Sprintf("account:a%d", i)),
			})
		}
		if x.Len() >= 400 || i == users-1 {
			r := n.Submit(context.Background(), x)
			if err := n.Wait(context.Background(), r.Position); err != nil || r.Err != nil {
				b.Fatal(r.Err, err)
			}
			x.Reset()
		}
	}
}

// BenchmarkDefinitions is 200 callers that each define a segment at once.
func BenchmarkDefinitions(b *testing.B) {
	n, c := benchNode(b, 1)
	const together = 200
	number := 0
	for b.Loop() {
		var wait sync.WaitGroup
		for range together {
			number++
			spec := proto.SegmentSpec{ID: proto.SegmentID(fmt.Sprint("more", number%4000)), Scope: "identity", When: fmt.Sprintf(`count(event.section == "s%d") >= 1`, number)}
			wait.Go(func() {
				if _, err := n.Define(b.Context(), c, spec); err != nil {
					b.Error(err)
				}
			})
		}
		wait.Wait()
	}
	b.ReportMetric(float64(b.N*together)/b.Elapsed().Seconds(), "definitions/s")
}

// BenchmarkOneEvent is 64 callers that each submit one event at a time and
// wait until it is durable.
func BenchmarkOneEvent(b *testing.B) {
	n, c := benchNode(b, 100)
	events := make([]*proto.Batch, 5000)
	now := proto.MillisOf(time.Now())
	for i := range events {
		events[i] = &proto.Batch{}
		events[i].AddEvent(n.Hasher(), &proto.Event{
			Client: c.ID, Space: c.Space, Time: now, Received: now,
			Identities: []proto.Identity{proto.Identity(fmt.Sprintf("browser:%032x", i))},
			EventBody:  proto.EventBody{Name: "page", Props: []proto.Prop{{Key: "section", Value: proto.TextOf(fmt.Sprint("s", i%20))}}},
		})
	}
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(events)); pb.Next(); i++ {
			if r := n.Submit(context.Background(), events[i%len(events)]); r.Err != nil {
				b.Error(r.Err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkCampaignReport goes through 20,000 identities with five events each,
// one of them of the campaign.
func BenchmarkCampaignReport(b *testing.B) {
	n, c := benchNode(b, 0)
	const identities = 20_000
	x := &proto.Batch{}
	now := proto.MillisOf(time.Now())
	for i := range identities {
		for k := range 5 {
			name, campaign := "page", ""
			if k == 3 {
				name, campaign = "impression", "c1"
			}
			x.AddEvent(n.Hasher(), &proto.Event{
				Client: c.ID, Space: c.Space, Time: now, Received: now,
				Identities: []proto.Identity{proto.Identity(fmt.Sprintf("browser:%032x", i))},
				EventBody: proto.EventBody{Name: name, URL: "https://news.example/s", Props: []proto.Prop{
					{Key: "campaign", Value: proto.TextOf(campaign)}, {Key: "creative", Value: proto.TextOf(fmt.Sprint(i % 9))},
				}},
			})
		}
		if x.Len() >= 400 || i == identities-1 {
			r := n.Submit(context.Background(), x)
			if err := n.Wait(context.Background(), r.Position); err != nil || r.Err != nil {
				b.Fatal(r.Err, err)
			}
			x.Reset()
		}
	}
	today := proto.DayOf(time.Now())
	b.ResetTimer()
	for range b.N {
		r, err := n.CampaignReport(context.Background(), c, &proto.CampaignRequest{Campaign: "c1", By: "creative", From: today - 1, To: today}, 50)
		if err != nil || *r.Reach != identities {
			b.Fatal(r, err)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N*identities), "us/identity")
}

// BenchmarkCounts counts among a hundred visitors: what is beside the algebra.
func BenchmarkCounts(b *testing.B) {
	n, c := benchNode(b, 0)
	for i := range 100 {
		when := fmt.Sprintf(`count(event.section == "s%d", "30d") >= 1`, i)
		if _, err := n.Define(b.Context(), c, proto.SegmentSpec{ID: proto.SegmentID(fmt.Sprintf("segment-%d", i)), Scope: "identity", When: when}); err != nil {
			b.Fatal(err)
		}
	}
	var batch proto.Batch
	for i := range 100 {
		batch.AddEvent(n.Hasher(), page(c, fmt.Sprint("v", i), fmt.Sprint("s", i), time.Now()))
	}
	if err := n.Wait(b.Context(), n.Submit(b.Context(), &batch).Position); err != nil {
		b.Fatal(err)
	}
	for _, x := range []struct{ name, expr string }{{"two", "segment-3 & segment-4"}, {"six", "(segment-3 | segment-4 | segment-5 | segment-6) & segment-7 & !segment-8"}} {
		b.Run(x.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := n.Counts(b.Context(), c, []string{x.expr}, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
