package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"time"

	"kith/internal/config"
	"kith/proto"
)

// What lapses.
const (
	lapsing       = 10_000
	lapseOver     = time.Minute // from the first to the last
	lapseLead     = 5 * time.Second
	lapseWindow   = 90 * time.Second
	lapseFirst    = 20_000_000 // browser
	lapsePoll     = 4 * time.Millisecond
	lapseLookSoon = 10 * time.Millisecond // before its time a membership is looked at
	lapseMax      = 30 * time.Second      // late
)

// lapses gives one event of each browser, that of number i so long ago that its
// membership ends at due[i], which ascends.
type lapses struct {
	due []proto.Millis
	at  int
}

func newLapses(count int, first time.Time, over time.Duration) *lapses {
	l := &lapses{}
	for i := range count {
		l.due = append(l.due, proto.MillisOf(first.Add(over*time.Duration(i)/time.Duration(count))))
	}
	return l
}

func (l *lapses) over() bool { return l.at == len(l.due) }

func (l *lapses) next() (uint32, happened, string) {
	x := happened{at: l.due[l.at] - proto.Millis(lapseWindow/time.Millisecond), kind: kindOrder}
	l.at++
	return lapseFirst + uint32(l.at) - 1, x, ""
}

// exits is how late memberships end that lapse one after another, beside
// events: in counts, which are of what was committed, and in look-ups, which
// know of the time themselves.
func (s *session) exits(ctx context.Context) (_ []Result, err error) {
	count := lapsing
	if s.Time < time.Second {
		count /= 100
	}
	over := min(lapseOver, 20*s.Time)
	lapse := rule{id: "lapse", when: fmt.Sprintf(`count(event.name == "order", "%ds") >= 1`, int(lapseWindow.Seconds()))}
	n, err := s.node(ctx, 0, append(hundred(), lapse))
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	tape := newTape()
	if err := n.load(ctx, visitors); err != nil {
		return nil, err
	}
	var looks latencies
	x, err := n.beside(ctx, tape, s.steady(fillBackground), func(ctx context.Context) (x sample, err error) {
		l := newLapses(count, time.Now().Add(lapseLead), over)
		if err := n.finish(ctx, []worker{newTale(postEvents, l)}); err != nil {
			return x, err
		}
		looked := make(chan error, 1)
		go func() {
			var err error
			looks, err = n.lookAtLapses(ctx, l.due)
			looked <- err
		}()
		x, err = n.countLapses(ctx, lapse.id, l.due)
		if e := <-looked; err == nil {
			err = e
		}
		return x, err
	})
	if err != nil {
		return nil, err
	}
	greatest := x.latencies.quantile(1)
	r := Result{Work: fmt.Sprintf("exits: %d memberships that lapse over %s, the latest", count, over), Unit: "ms late", Ours: greatest}
	r.set("p50_ms", x.latencies.quantile(0.5))
	r.set("p99_ms", x.latencies.quantile(0.99))
	r.set("lookup_greatest_ms", looks.quantile(1))
	r.note("in counts, asked every %s: p50 %.3g ms, p99 %.3g ms, greatest %.3g ms after their time; none before it", lapsePoll, x.latencies.quantile(0.5), x.latencies.quantile(0.99), greatest)
	r.note("in look-ups, %d of them looked at from before their time on: p50 %.3g ms, p99 %.3g ms, greatest %.3g ms after it; none before it", len(looks), looks.quantile(0.5), looks.quantile(0.99), looks.quantile(1))
	r.atMost("ms", greatest, 1000)
	r.background(samples{x}, s.steady(fillBackground))
	return []Result{r}, nil
}

// countLapses counts until nobody is left. When the k-th is missing, whoever
// came k-th is late by the time since; they leave in the order of their times.
func (n *node) countLapses(ctx context.Context, segment string, due []proto.Millis) (x sample, err error) {
	c, err := dial(ctx, n.service)
	if err != nil {
		return x, err
	}
	defer c.close()
	body := `{"expr":"` + segment + `"}`
	request := []byte("POST /v1/audiences/count?client=" + config.DevClient + " HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer " + config.DevAdminKey +
		"\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	begin := time.Now()
	for gone := 0; gone < len(due); {
		sent := time.Now()
		status, answer, err := c.do(request)
		if err != nil {
			return x, err
		}
		var got struct{ Count *uint64 }
		if err := json.Unmarshal(answer, &got); err != nil || status != http.StatusOK || got.Count == nil {
			return x, proto.Errorf(proto.CodeInvalid, "a count was answered with status %d: %s", status, answer)
		}
		now := proto.MillisOf(time.Now())
		over := sort.Search(len(due), func(i int) bool { return due[i] > now })
		left := len(due) - int(*got.Count)
		if left > over {
			return x, proto.Errorf(proto.CodeInternal, "%d memberships have ended when the time of %d had come", left, over)
		}
		for ; gone < left; gone++ {
			x.latencies = append(x.latencies, float64(now-due[gone]))
			x.units++
		}
		if gone < len(due) && now-due[gone] > proto.Millis(lapseMax/time.Millisecond) {
			return x, proto.Errorf(proto.CodeTimeout, "a membership has not ended %s after its time", lapseMax)
		}
		if pause(ctx, lapsePoll-time.Since(sent)); ctx.Err() != nil {
			return x, context.Cause(ctx)
		}
	}
	x.seconds = time.Since(begin).Seconds()
	return x, nil
}

// lookAtLapses looks at one membership after another, from before its time
// until it has ended. Those whose time came meanwhile are left out.
func (n *node) lookAtLapses(ctx context.Context, due []proto.Millis) (late latencies, err error) {
	c, err := dial(ctx, n.service)
	if err != nil {
		return nil, err
	}
	defer c.close()
	for i, at := range due {
		wait := time.Until(at.Time()) - lapseLookSoon
		if wait < 0 {
			continue
		}
		pause(ctx, wait)
		request := getRequest("/v1/identities/" + string(personIdentity('b', lapseFirst+uint32(i))) + "/segments")
		for first := true; ; first = false {
			status, answer, err := c.do(request)
			if err == nil && status != http.StatusOK {
				err = proto.Errorf(proto.CodeInvalid, "a look-up was answered with status %d: %s", status, answer)
			}
			if err != nil {
				return late, err
			}
			after := float64(time.Since(at.Time())) / float64(time.Millisecond)
			if !bytes.Contains(answer, []byte(`"lapse"`)) {
				if after < 0 {
					return late, proto.Errorf(proto.CodeInternal, "a look-up does not show a membership %.3g ms before its end: %s", -after, answer)
				}
				if !first {
					late = append(late, after)
				}
				break
			}
			if pause(ctx, pollEvery); ctx.Err() != nil {
				return late, context.Cause(ctx)
			}
		}
	}
	return late, nil
}
