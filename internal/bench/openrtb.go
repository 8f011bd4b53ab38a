package bench

import (
	"bytes"
	"context"
	"math/rand/v2"

	"kith/proto"
)

// bidText is what an exchange sends for one place on a page, about a browser.
const bidText = `{"id":"80ce30c53c16e6ede735f123ef6e32361bfc7b22","at":1,"cur":["USD"],"tmax":120,"imp":[{"id":"1","bidfloor":0.03,"bidfloorcur":"USD","secure":1,"tagid":"agltb3B1Yi1pbmNyDQsSBFNpdGUY7fD0FAw",` +
	`"banner":{"h":250,"w":300,"pos":0,"format":[{"w":300,"h":250},{"w":300,"h":600},{"w":320,"h":50}],"btype":[4],"battr":[1,3,14],"api":[3,5,6]},"pmp":{"private_auction":1,"deals":[{"id":"AB-Agency1-0001","at":1,"bidfloor":2.5,"wseat":["Agency1"]},{"id":"XY-Agency2-0001","at":2,"bidfloor":2,"wseat":["Agency2"]}]},"ext":{"gpid":"/1111/homepage#div-1","data":{"pbadslot":"/1111/homepage"}}}],` +
	`"site":{"id":"102855","name":"News of the day","cat":["IAB3-1","IAB12"],"domain":"www.news.example","page":"https://www.news.example/economy/2026/11/27/markets-open-lower-after-a-long-week-1234.html","ref":"https://search.example/","publisher":{"id":"8953","name":"news.example","cat":["IAB3-1"],"domain":"news.example"},"content":{"keywords":"economy,markets,shares","language":"en"}},` +
	`"device":{"ua":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36","sua":{"browsers":[{"brand":"Chromium","version":["142","0","7444","59"]},{"brand":"Not A Brand","version":["99"]}],"platform":{"brand":"Linux","version":["6"]},"mobile":0},"ip":"192.0.2.0","language":"en","devicetype":2,"dnt":0,"lmt":0,"geo":{"country":"CHE","region":"BE","type":2}},` +
	`"user":{"id":"55816b39711f9b5acf3b90e313ed29e51665623f","buyeruid":"` + visitorMark + `","consent":"COzTVhaOzTVhaGvAAAENAiCIAP_AAH_AAAAAAEEUACCKAAA","data":[{"id":"6","name":"another.example","segment":[{"id":"12341318394918"},{"id":"23849302"}],"ext":{"segtax":4}}],"eids":[{"source":"another.example","uids":[{"id":"gTAIAOAAAA4cZxJpF4TZ0000000000","atype":1}]}]},` +
	`"regs":{"coppa":0,"gdpr":1,"us_privacy":"1---","gpp":"DBACNYA~COzTVhaOzTVhaGvAAAENAiCIAP_AAH_AAAAAAEEUACCKAAA~1YNN","gpp_sid":[2],"ext":{"gdpr":1}},"source":{"tid":"f3a1c9e2-4f1f-4a3d-a5be-7a3f6a9e8f11","schain":{"ver":"1.0","complete":1,"nodes":[{"asi":"exchange.example","sid":"1234","hp":1,"rid":"bid-1"}]}}}`

// bidder asks for a bid request to be filled, about another visitor each time.
type bidder struct {
	r       *rand.Rand
	request []byte
	digits  []byte // of request
}

func newBidder(seed uint64) *bidder {
	b := &bidder{r: rand.New(rand.NewPCG(seed, 13)), request: postRequest("/v1/openrtb", []byte(bidText))}
	at := bytes.Index(b.request, []byte(visitorMark)) + 1
	b.digits = b.request[at : at+8]
	return b
}

func (b *bidder) next() []byte {
	putDigits(b.digits, b.r.Uint32N(visitors))
	return b.request
}

func (b *bidder) done(answer []byte) (int, error) {
	if !bytes.Contains(answer, []byte(`{"id":"kith","name":"kith","segment":[{"id":"`)) || !bytes.Contains(answer, b.digits) {
		return 0, proto.Errorf(proto.CodeInvalid, "a bid request of visitor %s came back without segments: %s", b.digits, answer[:min(len(answer), 300)])
	}
	return 1, nil
}

// openRTB is bid requests filled, one a request, beside a bare handler that sends
// the same ones back.
func (s *session) openRTB(ctx context.Context) (_ []Result, err error) {
	n, err := s.warmNode(ctx, newTape())
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	bare, err := s.startYardstick(ctx, "echo")
	if err != nil {
		return nil, err
	}
	defer closing(bare, &err)
	bidders := func() []worker {
		workers := make([]worker, postConns)
		for i := range workers {
			workers[i] = newBidder(uint64(i))
		}
		return workers
	}
	x, err := s.rounds(ctx,
		func(ctx context.Context) (sample, error) { return n.look(ctx, bidders()) },
		func(ctx context.Context) (sample, error) {
			return bare.measured(ctx, httpLoad(bare.addr, unreadAll(bidders(), 1)), s.Time)
		})
	if err != nil {
		return nil, err
	}
	r := lookupResult("bid requests of 2 KiB filled, 64 connections", "requests/s", x[0])
	r.against("bare net/http", x[1].rate())
	r.atLeast("ratio", r.Ratio, 0.4)
	r.note("bare net/http that reads them and sends them back: %s/s, %.2f us of its processor a request, p99 %.3g ms", x[1].spread(), x[1].cost(), x[1].quantile(0.99))
	return []Result{r}, nil
}
