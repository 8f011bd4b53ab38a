package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/url"

	"kith/internal/config"
	"kith/proto"
)

// pixelRequest is what a page's picture has a browser ask for.
func pixelRequest() []byte {
	q := "client=" + config.DevClient + "&event=page_view&url=" + url.QueryEscape(eventURL) + "&ref=" + url.QueryEscape(eventRef) +
		"&p.section=" + sectionMark + "&p.author=" + authorMark + "&p.country=DE&p.price=12.5"
	return []byte("GET /v1/pixel.gif?" + q + " HTTP/1.1\r\nHost: bench\r\nCookie: kith_id=" + visitorMark + "\r\n\r\n")
}

// viewer is a browser that asks for the picture, another one each time.
type viewer struct {
	request []byte
	at      slot
	from    source
	last    []byte // the position of its last event, as text
}

func newViewer(from source) *viewer {
	b := pixelRequest()
	return &viewer{request: b, at: slotOf(b, 0), from: from}
}

func (v *viewer) next() []byte {
	v.at.put(v.request, v.from.next())
	return v.request
}

func (v *viewer) done(answer []byte) (int, error) {
	at := line(answer, "X-Kith-Position")
	if len(at) == 0 || !bytes.HasSuffix(answer, onePixel) {
		return 0, proto.Errorf(proto.CodeInvalid, "the picture's event was not taken: %s", answer[:min(len(answer), 300)])
	}
	if v.last == nil {
		if _, err := proto.ParsePosition(string(at)); err != nil {
			return 0, err
		}
	}
	v.last = append(v.last[:0], at...) // read once all is measured: a browser does not
	return 1, nil
}

// position is that of its last event, of a node with one lane; nil if there was none.
func (v *viewer) position() proto.Position {
	pos, _ := proto.ParsePosition(string(v.last))
	return pos
}

// pixelConns are how many browsers ask at once: the more, the more of their events
// share an entry and its fsync.
var pixelConns = []int{postConns, 512}

// pixel is events by pictures, acknowledged after their fsync, beside a bare
// handler that answers with the picture.
func (s *session) pixel(ctx context.Context) (_ []Result, err error) {
	tape := newTape()
	n, err := s.warmNode(ctx, tape)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	bare, err := s.startYardstick(ctx, "picture")
	if err != nil {
		return nil, err
	}
	defer closing(bare, &err)
	var samplers []sampler
	for _, conns := range pixelConns {
		viewers := func() []worker {
			workers := make([]worker, conns)
			for i := range workers {
				workers[i] = newViewer(&warm{tape: tape, at: i * len(tape) / conns})
			}
			return workers
		}
		samplers = append(samplers,
			func(ctx context.Context) (sample, error) {
				return n.queryable(ctx, headersToo(httpLoad(n.public, viewers())), s.Time)
			},
			func(ctx context.Context) (sample, error) {
				return bare.measured(ctx, headersToo(httpLoad(bare.addr, unreadAll(viewers(), 1))), s.Time)
			})
	}
	x, err := s.rounds(ctx, samplers...)
	if err != nil {
		return nil, err
	}
	var results []Result
	for i, conns := range pixelConns {
		mine, its := x[2*i], x[2*i+1]
		r := ingestResult(fmt.Sprintf("pixels, acknowledged after fsync, %d connections", conns), mine)
		r.against("bare net/http", its.rate())
		r.atLeast("ratio", r.Ratio, 0.5)
		r.note("bare net/http: %s/s, %.2f us of its processor a request, p99 %.3g ms", its.spread(), its.cost(), its.quantile(0.99))
		results = append(results, r)
	}
	return results, nil
}
