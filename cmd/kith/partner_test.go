package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/internal/config"
	"kith/proto"
)

const partnerYAML = `keys:
  - {role: client, client: acme, sha256: KEY}
clients:
  - name: acme
    openrtb: {segtax: 7777, user_id: partner.adx}
    partners:
      - name: adx
        redirects: [https://sync.adx.example/match]
      - {name: sure, proof_secret: 0123456789abcdef}
consent: {tcf_vendor: 7}
openrtb: {source: kith.example}
`

func TestGatewayConfigOfPartners(t *testing.T) {
	c, err := config.Parse([]byte(strings.Replace(partnerYAML, "KEY", config.HashKey("k"), 1)))
	if err != nil {
		t.Fatal(err)
	}
	g := gatewayConfig(c)
	want := map[proto.ClientName][]gateway.Partner{"acme": {
		{Name: "adx", Redirects: []string{"https://sync.adx.example/match"}, Secret: []byte{}},
		{Name: "sure", Secret: []byte("0123456789abcdef")},
	}}
	if d := cmp.Diff(want, g.Partners); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[proto.ClientName]gateway.OpenRTB{"acme": {Segtax: 7777, UserID: "partner.adx"}}, g.OpenRTB); d != "" {
		t.Error(d)
	}
	if g.TCFVendor != 7 || g.EIDSource != "kith.example" {
		t.Error(g.TCFVendor, g.EIDSource)
	}
}

// ask sends a request as a browser or a client's server does, and follows no
// redirect.
func ask(t *testing.T, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// TestPartnerToBidRequest: a browser is seen on a client's pages and matched
// with a partner; the partner's bid request, by its own id, is then filled with
// what the browser did, until it opts out.
func TestPartnerToBidRequest(t *testing.T) {
	const key = "acme-key"
	data, file := t.TempDir(), t.TempDir()+"/kith.yaml"
	writeFile(t, file, strings.Replace(strings.Replace(partnerYAML, "KEY", config.HashKey(key), 1), "tcf_vendor: 7", "tcf_vendor: 0", 1))
	n := startNode(t, data, "--config", file)
	bearer := []string{"Authorization", "Bearer " + key}
	if resp, body := ask(t, "PUT", n.service+"/v1/segments/auto", `{"scope":"user","when":"count(event.section == \"auto\", \"30d\") >= 1"}`, bearer...); resp.StatusCode != 200 {
		t.Fatal(resp.Status, body)
	}
	resp, _ := ask(t, "GET", n.public+"/v1/pixel.gif?client=acme&p.section=auto", "")
	if len(resp.Cookies()) != 1 {
		t.Fatal(resp.Status, resp.Header)
	}
	cookie := resp.Cookies()[0]
	resp, body := ask(t, "GET", n.public+"/v1/match?client=acme&partner=adx&uid=adx-77&redirect=https%3A%2F%2Fsync.adx.example%2Fmatch%3Fkith%3D%7Bid%7D", "", "Cookie", "kith_id="+cookie.Value)
	uid, ok := strings.CutPrefix(resp.Header.Get("Location"), "https://sync.adx.example/match?kith=")
	if resp.StatusCode != 302 || !ok || !strings.HasPrefix(uid, "k1~") {
		t.Fatal(resp.Status, resp.Header, body)
	}

	// The link is made in the log; what follows from it comes soon after.
	const bid = `{"id":"1","user":{"id":"adx-77"}}`
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(body, `"auto"`) {
		if time.Now().After(deadline) {
			t.Fatalf("the partner's bid request is not filled: %s", body)
		}
		time.Sleep(10 * time.Millisecond)
		if resp, body = ask(t, "POST", n.service+"/v1/openrtb", bid, bearer...); resp.StatusCode != 200 {
			t.Fatal(resp.Status, body)
		}
	}
	var x struct {
		User struct {
			Data []struct {
				ID      string
				Segment []struct{ ID string }
				Ext     struct{ Segtax int }
			}
			EIDs []struct {
				Source string
				UIDs   []struct{ ID string }
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &x); err != nil || len(x.User.Data) != 1 || len(x.User.EIDs) != 1 || x.User.Data[0].Ext.Segtax != 7777 || x.User.EIDs[0].Source != "kith.example" {
		t.Fatalf("%v: %s", err, body)
	}
	if strings.Contains(body, cookie.Value) {
		t.Errorf("the cookie is told: %s", body)
	}
	// By the browser itself it has the name that the partner was given.
	own := `{"user":{"eids":[{"source":"kith.example","uids":[{"id":"` + cookie.Value + `"}]}]}}`
	if resp, body := ask(t, "POST", n.service+"/v1/openrtb", own, bearer...); resp.StatusCode != 200 || !strings.Contains(body, `"`+uid+`"`) || strings.Contains(body, cookie.Value) {
		t.Errorf("%s: %s", resp.Status, body)
	}

	if code := n.stop(); code != 0 {
		t.Fatal(code)
	}
	n = startNode(t, data, "--config", file)
	if _, body := ask(t, "POST", n.service+"/v1/openrtb", own, bearer...); !strings.Contains(body, `"`+uid+`"`) {
		t.Errorf("after a restart it has another name: %s", body)
	}

	if resp, body := ask(t, "POST", n.public+"/v1/optout", `{"everywhere":true}`, "Cookie", "kith_id="+cookie.Value, "Sec-Fetch-Site", "same-origin"); resp.StatusCode != 200 {
		t.Fatal(resp.Status, body)
	}
	for name, in := range map[string]string{"the browser's": own, "the partner's": bid} {
		if resp, body := ask(t, "POST", n.service+"/v1/openrtb", in, bearer...); resp.Header.Get("X-Kith-Withheld") != "opted_out" || strings.Contains(body, "auto") || strings.Contains(body, uid) {
			t.Errorf("%s bid request after the opt-out: %v %s", name, resp.Header, body)
		}
	}
	resp, _ = ask(t, "GET", n.public+"/v1/match?client=acme&partner=adx&uid=adx-77", "", "Cookie", "kith_id="+cookie.Value)
	if resp.StatusCode != 200 || resp.Header.Get("X-Kith-Withheld") != "opted_out" || len(resp.Cookies()) != 0 {
		t.Errorf("a match after the opt-out: %s %v", resp.Status, resp.Header)
	}
}
