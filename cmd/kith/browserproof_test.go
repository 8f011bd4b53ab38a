package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"kith/internal/config"
	"kith/proto"
)

// TestCopiedBrowserID: with cookies.proof on, a browser's id out of a client's export opens
// nothing on a real node's public plane; the browser itself, with both its cookies, sees
// all, and an opt-out is done for either, with a receipt that tells a copy of nothing.
func TestCopiedBrowserID(t *testing.T) {
	p := newPrivacyNode(t, func(c *config.Config) { c.Cookies.Proof = true })
	visit := func(method, target, body, cookie string) (status int, answer string, set map[string]string) {
		t.Helper()
		header := http.Header{"Content-Type": {"application/json"}, "Sec-Fetch-Site": {"same-origin"}}
		if strings.HasPrefix(body, "do=") {
			header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if cookie != "" {
			header.Set("Cookie", cookie)
		}
		w := p.send("public", method, target, body, header)
		set = map[string]string{}
		for _, c := range w.Result().Cookies() {
			if c.MaxAge >= 0 {
				set[c.Name] = c.Value
			}
		}
		return w.Code, w.Body.String(), set
	}
	const seen = `{"client":"demo","events":[{"event":"page","identities":["account:hatstand"],"props":{"section":"auto"}}]}`
	newcomer := func() (id, both string) {
		t.Helper()
		_, answer, set := visit("POST", "/v1/events", seen, "")
		if set["kith_id"] == "" || set["kith_proof"] == "" {
			t.Fatalf("%s: cookies %v", answer, set)
		}
		id = "kith_id=" + set["kith_id"]
		return id, id + "; kith_proof=" + set["kith_proof"]
	}
	id, both := newcomer()
	p.settled()
	export := p.must("GET", "/v1/clients/demo/export", "")
	value := strings.TrimPrefix(id, "kith_id=")
	if !strings.Contains(export, value) || strings.Contains(export, strings.TrimPrefix(both, id+"; kith_proof=")) {
		t.Errorf("the export must have the id, and not its proof: %s", export)
	}
	held := p.held()
	for _, target := range []string{"/v1/me?client=demo", "/v1/me/segments?client=demo", "/choices?client=demo", "/choices"} {
		secret := "private"
		if target == "/choices" {
			secret = "client=demo&amp;"
		}
		if status, answer, _ := visit("GET", target, "", both); status != 200 || !strings.Contains(answer, secret) {
			t.Errorf("%s of the browser itself: %d %s", target, status, answer)
		}
		if status, answer, set := visit("GET", target, "", id); status != 200 || strings.Contains(answer, secret) || strings.Contains(answer, value) || set["kith_proof"] != "" {
			t.Errorf("%s of a copy: %d %s %v", target, status, answer, set)
		}
	}
	for _, x := range [][3]string{
		{"DELETE", "/v1/me", ""}, {"POST", "/v1/choices", `{"client":"demo","age_band":"25-34"}`},
		{"POST", "/choices?client=demo", "do=erase"}, {"POST", "/choices?client=demo", "do=save&gender=other"},
	} {
		if status, answer, _ := visit(x[0], x[1], x[2], id); status != http.StatusBadRequest {
			t.Errorf("%s %s of a copy: %d %s", x[0], x[1], status, answer)
		}
	}
	if now := p.held(); strings.Join(now, "") != strings.Join(held, "") {
		t.Errorf("a copy changed what is held: %v, was %v", now, held)
	}
	// An event is stored all the same, and gives no proof.
	if _, answer, set := visit("POST", "/v1/events", seen, id); !strings.Contains(answer, `"accepted":1`) || set["kith_proof"] != "" {
		t.Errorf("an event of a copy: %s %v", answer, set)
	}
	p.settled()

	receipt := func(answer string) *proto.Receipt {
		t.Helper()
		var x struct{ Receipt *proto.Receipt }
		if err := json.Unmarshal([]byte(answer), &x); err != nil || x.Receipt == nil {
			t.Fatalf("no receipt: %v: %s", err, answer)
		}
		return x.Receipt
	}
	_, second := newcomer()
	p.settled()
	_, answer, _ := visit("POST", "/v1/optout", "", second)
	if r := receipt(answer); r.CopiesRetracted+r.MembersRefreshed == 0 {
		t.Errorf("the browser's own receipt counts nothing: %s", answer)
	}
	_, answer, _ = visit("POST", "/v1/optout", "", id)
	if r := receipt(answer); r.CopiesRetracted+r.MembersRefreshed+r.Also != 0 {
		t.Errorf("the receipt of a copy counts what there was: %s", answer)
	}
	for _, line := range p.held() {
		if strings.Contains(line, value) {
			t.Errorf("left after the opt-out: %s", line)
		}
	}
	if _, answer, _ = visit("GET", "/v1/optout/status", "", both+"; kith_optout=1"); receipt(answer).CopiesRetracted+receipt(answer).MembersRefreshed == 0 {
		t.Errorf("the browser itself is not told what was done: %s", answer)
	}
	// A copy does not lift it, the browser does.
	state := func() string { return p.must("GET", "/v1/optouts/browser:"+value, "") }
	visit("POST", "/v1/optin", "", id)
	if s := state(); !strings.Contains(s, `"opted_out":true`) {
		t.Errorf("a copy opted in: %s", s)
	}
	visit("POST", "/v1/optin", "", both)
	if s := state(); strings.Contains(s, `"opted_out":true`) {
		t.Errorf("the browser did not opt in: %s", s)
	}
}
