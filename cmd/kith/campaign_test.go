package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kith/internal/config"
	"kith/internal/porttest"
	"kith/proto"
)

// campaignNode is a real node with its NATS open to programs.
func campaignNode(t *testing.T, data, natsListen string) *liveNode {
	t.Helper()
	file := t.TempDir() + "/kith.yaml"
	writeFile(t, file, "nats:\n  listen: "+natsListen+"\n")
	return startNode(t, data, "--config", file)
}

// seesByPixel has a browser of its own ask for the pixel, and gives its identity.
func seesByPixel(t *testing.T, n *liveNode, times int) (identity string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(n.public)
	if err != nil {
		t.Fatal(err)
	}
	var cookie *http.Cookie
	for i := range times {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.public+"/v1/pixel.gif?client=demo&event=impression&p.campaign=spring&p.creative=blue&p.placement=top&id=px"+fmt.Sprint(i), nil)
		if err != nil {
			t.Fatal(err)
		}
		if cookie != nil { // it is Secure, which a jar does not send here
			r.AddCookie(&http.Cookie{Name: cookie.Name, Value: cookie.Value})
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if e := resp.Header.Get("X-Kith-Error"); e != "" || resp.StatusCode != 200 {
			t.Fatalf("the pixel: %s, %s", resp.Status, e)
		}
		jar.SetCookies(at, resp.Cookies())
		for _, c := range resp.Cookies() {
			if c.Name == "kith_id" {
				cookie = c
			}
		}
	}
	if cookie == nil {
		t.Fatal("the pixel set no cookie")
	}
	return "browser:" + cookie.Value
}

// Impressions by pixel, JSON and NATS cap a campaign; the report and the daily
// totals count them, to a client's key nothing of few people; who opts out is in
// no report, while the totals stay, over a restart too.
func TestCampaign(t *testing.T) {
	data, listen := t.TempDir(), porttest.Free(t)
	n := campaignNode(t, data, listen)
	writeFile(t, data+"/segments.yaml", `segments:
  - {id: capped_spring, scope: user, when: 'count(event.name == "impression" && event.campaign == "spring", "24h") >= 3'}
`)
	n.kith(t, "segments", "apply", "-f", data+"/segments.yaml")

	byPixel := seesByPixel(t, n, 3)
	var lines strings.Builder
	for i := range 80 {
		for range 1 + i%4 {
			fmt.Fprintf(&lines, `{"event":"impression","identities":["browser:seen%d"],"props":{"campaign":"spring","creative":%q}}`+"\n", i, []string{"blue", "red"}[i/79])
		}
		if i < 60 {
			fmt.Fprintf(&lines, `{"event":"click","identities":["browser:seen%d"],"props":{"campaign":"spring","creative":"blue"}}`+"\n", i)
		}
		if i < 2 {
			fmt.Fprintf(&lines, `{"event":"order","identities":["browser:seen%d"],"props":{"price":20}}`+"\n", i)
		}
	}
	writeFile(t, data+"/events.ndjson", lines.String())
	position := n.ingest(t, "-f", data+"/events.ndjson").Position

	nc, err := nats.Connect("nats://"+listen, nats.Token(config.DevKey), nats.CustomInboxPrefix("_INBOX_demo"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	m := nats.NewMsg("kith.in.demo")
	m.Header.Set("Authorization", "Bearer "+config.DevKey)
	m.Data = []byte(`{"events":[` + strings.TrimSuffix(strings.Repeat(`{"event":"impression","identities":["browser:canary"],"props":{"campaign":"spring","creative":"blue"}},`, 3), ",") + `]}`)
	reply, err := nc.RequestMsg(m, 10*time.Second)
	if err != nil || !strings.Contains(string(reply.Data), `"accepted":3`) {
		t.Fatalf("intake over NATS: %v, %s", err, reply.Data)
	}
	var taken struct{ Position string }
	if err := json.Unmarshal(reply.Data, &taken); err != nil {
		t.Fatal(err)
	}
	n.kith(t, "lookup", "browser:anybody", "--after", position)
	for id, want := range map[string]bool{byPixel: true, "browser:canary": true, "browser:seen3": true, "browser:seen1": false} {
		if got := n.kith(t, "lookup", id, "--after", taken.Position); strings.Contains(got, "capped_spring") != want {
			t.Errorf("%s: %s, want capped %v", id, got, want)
		}
	}

	report := func(key string) (r proto.CampaignReport) {
		t.Helper()
		code, out, errs := command(t, strings.TrimPrefix(n.service, "http://"), "", "campaign", "report", "spring", "--by", "creative", "--conversion", `event.name == "order"`, "--key", key, "--client", "demo", "--json")
		if code != 0 {
			t.Fatalf("%s%s", out, errs)
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	const impressions = 20*(1+2+3+4) + 3 + 3
	if r := report(config.DevAdminKey); *r.Reach != 82 || *r.Impressions != impressions || *r.Clickers != 60 || *r.Converters != 2 || len(r.Values) != 2 || !r.Exact {
		t.Errorf("to an admin: %+v", r)
	}
	if r := report(config.DevKey); *r.Reach != 82 || *r.Clickers != 60 || r.Converters != nil || len(r.Values) != 0 || r.Other == nil || *r.Other.Impressions != impressions {
		t.Errorf("to the client: %+v", r) // red is of one, so blue is kept back
	}
	text := n.kith(t, "campaign", "report", "spring", "--by", "creative")
	if !strings.Contains(text, "creative blue") || !strings.Contains(text, "click-through: 29.13 %") {
		t.Error(text)
	}

	totals := func(by string) string { return n.kith(t, "aggregates", "--by", by) }
	events, campaigns := totals("event"), totals("campaign")
	for text, parts := range map[string][]string{events: {"impression", fmt.Sprint(impressions), "(new identities)  82", "order"}, campaigns: {"spring", fmt.Sprint(impressions), "60"}} {
		for _, x := range parts {
			if !strings.Contains(text, x) {
				t.Errorf("the totals are without %s:\n%s", x, text)
			}
		}
	}
	if _, out, _ := command(t, strings.TrimPrefix(n.service, "http://"), "", "aggregates", "--key", config.DevKey); strings.Contains(out, "order") || !strings.Contains(out, "(other)") {
		t.Errorf("the totals to the client: %s", out)
	}

	n.kith(t, "optout", "browser:canary")
	for range 2 {
		if r := report(config.DevAdminKey); *r.Reach != 81 || *r.Impressions != impressions-3 {
			t.Errorf("after the opt-out: %+v", r)
		}
		if e, c := totals("event"), totals("campaign"); e != events || c != campaigns {
			t.Errorf("the totals changed with the opt-out:\n%s%s", e, c)
		}
		n.kith(t, "verify")
		if code := n.stop(); code != 0 {
			t.Fatalf("the node ended with %d", code)
		}
		n = campaignNode(t, data, listen)
	}
	whole := n.kith(t, "client", "export", "demo")
	if !strings.Contains(whole, `{"kind":"aggregate","by":"campaign",`) || !strings.Contains(whole, `"aggregates":2}`) {
		t.Errorf("the export has no totals: %s", whole[max(0, len(whole)-600):])
	}
	backups, restored := t.TempDir(), t.TempDir()+"/restored"
	n.kith(t, "backup", backups)
	if code := n.stop(); code != 0 {
		t.Fatalf("the node ended with %d", code)
	}
	n.kith(t, "restore", backups, "--data", restored, "--ledger", data)
	other := startNode(t, restored)
	if e, c := other.kith(t, "aggregates"), other.kith(t, "aggregates", "--by", "campaign"); e != events || c != campaigns {
		t.Errorf("restored, the totals are:\n%s%s", e, c)
	}
	other.stop()
}
