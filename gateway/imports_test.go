package gateway_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// rows is a body of an import's rows.
func rows(ids ...string) string {
	return `{"identities":["` + strings.Join(ids, `","`) + `"]}`
}

func account(n int) string { return fmt.Sprintf("account:%032x", n+1) }

const (
	someHash = "account:5f1c0d2a9b8e7f60112233445566778899aabbccddeeff001122334455667788"
)

// The way of an import, for each role, and of what is wrong with one.
func TestImportRoutes(t *testing.T) {
	r := newRig(t)
	for i := range 3 {
		r.serve("POST", "/v1/events", `{"events":[{"event":"page","identities":["`+account(i)+`"]}]}`, auth, key("acme-key"))
	}
	at := strings.TrimSuffix(strings.SplitAfter(r.serve("POST", "/v1/imports", `{"segment":"x"}`, auth, key("acme-key")).Body.String(), `"opened":`)[1], "}\n")
	one := func(id, segment, mode, state, more string) string {
		return `{"id":"` + id + `","segment":"` + segment + `","mode":"` + mode + `","state":"` + state + `","opened":` + at + more + `}`
	}
	r.tell([]step{
		{"begin", "acme-key", "POST", "/v1/imports", `{"segment":"crm","mode":"replace","scope":"identity"}`, 201, one("2", "crm", "replace", "open", "")},
		{"begin, report key", "acme-report", "POST", "/v1/imports", `{"segment":"crm"}`, 403, "forbidden"},
		{"begin, no key", "", "POST", "/v1/imports", `{"segment":"crm"}`, 401, "unauthorized"},
		{"begin, admin without client", "admin-key", "POST", "/v1/imports", `{"segment":"crm"}`, 400, "client"},
		{"begin, unknown mode", "acme-key", "POST", "/v1/imports", `{"segment":"crm","mode":"merge"}`, 400, "invalid"},
		{"begin, no segment", "acme-key", "POST", "/v1/imports", `{}`, 400, "segment"},
		{"begin, a rule's segment", "acme-key", "POST", "/v1/imports", `{"segment":"own"}`, 409, "conflict"},
		{"rows", "acme-key", "POST", "/v1/imports/2/rows", rows(account(0), account(1), account(7), account(8)), 200, `{"accepted":4,"refused":[],"position":"0:4"}`},
		{"rows, report key", "acme-report", "POST", "/v1/imports/2/rows", rows(someHash), 403, "forbidden"},
		{"rows, another client", "demo-key", "POST", "/v1/imports/2/rows", rows(someHash), 404, "not_found"},
		{"rows, no import", "acme-key", "POST", "/v1/imports/77/rows", rows(someHash), 404, "not_found"},
		{"rows, no number", "acme-key", "POST", "/v1/imports/x/rows", rows(someHash), 404, "not_found"},
		{"rows, none", "acme-key", "POST", "/v1/imports/2/rows", `{"identities":[]}`, 400, "json"},
		{"rows, not texts", "acme-key", "POST", "/v1/imports/2/rows", `{"identities":[1]}`, 400, "json"},
		{"rows, too many", "acme-key", "POST", "/v1/imports/2/rows", `{"identities":["a"` + strings.Repeat(`,"a"`, 1000) + `]}`, 413, "too_large"},
		{"state, another client", "demo-key", "GET", "/v1/imports/2", "", 404, "not_found"},
		{"commit, another client", "demo-key", "POST", "/v1/imports/2/commit", "", 404, "not_found"},
		{"commit, below", "acme-key", "POST", "/v1/imports/2/commit", "", 403, "below"},
		{"state, below", "acme-key", "GET", "/v1/imports/2", "", 200, one("2", "crm", "replace", "below", `,"below":50`)},
		{"state, below, admin", "admin-key", "GET", "/v1/imports/2?client=acme", "", 200, one("2", "crm", "replace", "below", `,"identities":4,"matched":2,"rate":0.5,"below":50`)},
		{"rows, after it", "acme-key", "POST", "/v1/imports/2/rows", rows(someHash), 409, "conflict"},
		{"begin again", "acme-key", "POST", "/v1/imports", `{"segment":"crm"}`, 201, one("3", "crm", "create", "open", "")},
		{"rows again", "acme-key", "POST", "/v1/imports/3/rows", rows(account(0), account(1), account(7)), 200, `{"accepted":3,"refused":[],"position":"0:5"}`},
		{"commit, admin", "admin-key", "POST", "/v1/imports/3/commit?client=acme", "", 200, one("3", "crm", "create", "active", `,"identities":3,"matched":2,"rate":0.67`)},
		{"state, not told", "acme-key", "GET", "/v1/imports/3", "", 200, one("3", "crm", "create", "active", "")},
		{"delete", "acme-key", "DELETE", "/v1/imports/1", "", 200, `{"deleted":true}`},
		{"delete again", "acme-key", "DELETE", "/v1/imports/1", "", 200, `{"deleted":true}`},
		{"delete, below", "acme-key", "DELETE", "/v1/imports/2", "", 200, `{"deleted":true}`},
		{"delete, active", "acme-key", "DELETE", "/v1/imports/3", "", 409, "conflict"},
		{"delete, another client", "demo-key", "DELETE", "/v1/imports/1", "", 404, "not_found"},
		{"one that takes long", "acme-key", "POST", "/v1/imports", `{"segment":"slow"}`, 201, one("4", "slow", "create", "open", "")},
		{"its commit", "acme-key", "POST", "/v1/imports/4/commit", "", 202, one("4", "slow", "create", "checking", "")},
		{"list", "demo-key", "GET", "/v1/imports", "", 200, `{"imports":[]}`},
	})
	list := r.serve("GET", "/v1/imports", "", auth, key("acme-key")).Body.String()
	if !strings.Contains(list, one("1", "x", "create", "ended", `,"reason":"it was deleted"`)) || strings.Count(list, `"id"`) != 4 || strings.Contains(list, `"matched"`) {
		t.Errorf("the list is %s", list)
	}
	// What client keys are told is rounded, whoever committed it.
	r.serve("POST", "/v1/imports", `{"segment":"told"}`, auth, key("acme-key"))
	r.serve("POST", "/v1/imports/5/rows", rows(account(0), account(1), account(7), account(8)), auth, key("acme-key"))
	r.serve("POST", "/v1/imports/5/commit?client=acme", "", auth, key("admin-key"))
	if got := r.serve("GET", "/v1/imports/5", "", auth, key("acme-key")).Body.String(); !strings.Contains(got, `"identities":30,"matched":20,"rate":0.67,"rounded":10`) {
		t.Errorf("a client's key is told %s", got)
	}
}

// Rows that hold personal data or no identity are refused one by one; a check
// answers as the import does, and does nothing.
func TestImportRowsRefused(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.Blocked = []proto.Identity{"account:kiosk"} })
	r.serve("POST", "/v1/imports", `{"segment":"crm"}`, auth, key("acme-key"))
	for row, want := range map[string]string{
		someHash: "", "browser:b1": "", "partner.x:77": "", "account:customer-17": "",
		"me@example.com": "pii", "account:me@example.com": "pii", "account:me%40example.com": "pii",
		"account:+41 79 123 45 67": "pii", "account:0041791234567": "pii", "account:41791234567": "pii", "+41791234567": "pii",
		"account:4111111111111111": "pii", "4111 1111 1111 1111": "pii", "account:CH9300762011623852957": "pii",
		"account:192.0.2.7": "pii", "partner.x:2001:db8::1": "pii",
		"5f1c0d2a9b8e7f601122334455667788": "identity", "account:": "identity", "account:null": "identity", "nokind:a": "identity",
		"account:a b": "identity", "account:%%EMAIL_HASH%%": "identity", "account:da39a3ee5e6b4b0d3255bfef95601890afd80709": "identity", "account:kiosk": "identity", "account:" + strings.Repeat("a", 257): "identity", "account:a\\u0000": "identity",
		"account:" + strings.Repeat("a", 400) + "@example.com": "identity", // of what is no identity nothing is looked for
	} {
		var answers [2]string
		for i, path := range []string{"/v1/imports/1/rows", "/v1/imports/check"} {
			before := len(r.twin.traits)
			w := r.serve("POST", path, rows(someHash, row), auth, key("acme-key"))
			answers[i] = strings.Split(w.Body.String(), `"position"`)[0]
			got := ""
			if strings.Contains(answers[i], `"index":1`) {
				got = strings.Split(strings.SplitAfter(answers[i], `"code":"`)[1], `"`)[0]
			}
			if w.Code != 200 || got != want || strings.Contains(answers[i], `"index":0`) {
				t.Errorf("%s of %q: %d %s, want %q", path, row, w.Code, w.Body, want)
			}
			if n := len(r.twin.traits) - before; i == 1 && n != 0 {
				t.Errorf("a check of %q took %d rows in", row, n)
			}
		}
		if answers[0] != answers[1] {
			t.Errorf("%q: the import answers %s, a check %s", row, answers[0], answers[1])
		}
	}
	if w := r.serve("POST", "/v1/imports/check", rows(someHash), auth, key("acme-report")); w.Code != 403 {
		t.Errorf("a check with a report key: %d", w.Code)
	}
}

// Traits of many identities, each by the rules of a single one.
func TestTraitRows(t *testing.T) {
	r := newRig(t)
	body := `{"rows":[
		{"identity":"` + someHash + `","traits":{"city":"Bern","age":34,"old":null}},
		{"identity":"account:me@example.com","traits":{"city":"Bern"}},
		{"identity":"` + someHash + `","traits":{"mail":"me@example.com"}},
		{"identity":"` + someHash + `","traits":{"phone":"079 123 45 67"}},
		{"identity":"` + someHash + `","traits":{"import.crm":1}},
		{"identity":"` + someHash + `","traits":{"import#7":true}},
		{"identity":"` + someHash + `","traits":{}},
		{"identity":"` + someHash + `","traits":[1]},
		{"identity":"` + someHash + `"},
		{"identity":"` + someHash + `","traits":{"day":"2026-11-27","when":"10:30","nr":1234567890,"size":"7.5","zip":"03012"}},
		{"identity":"` + someHash + `","traits":{"card":4111111111111111}},
		{"identity":"` + someHash + `","traits":{"score":4.111111111111111}}]}`
	w := r.serve("POST", "/v1/traits?dry_run=true", body, auth, key("acme-key"))
	if w.Code != 200 || len(r.twin.traits) != 0 {
		t.Fatalf("a dry run: %d %s, %d taken", w.Code, w.Body, len(r.twin.traits))
	}
	w = r.serve("POST", "/v1/traits?dry_run=1", body, auth, key("acme-key"))
	if w.Code != 200 || len(r.twin.traits) != 0 {
		t.Fatalf("a dry run: %d %s, %d taken", w.Code, w.Body, len(r.twin.traits))
	}
	for _, query := range []string{"dry_run=yes", "dry_run", "dry_run=TRUE", "dry_run=true&dry_run=no", "dry_run=%zz", "%64ry_run=no"} {
		if w := r.serve("POST", "/v1/traits?"+query, body, auth, key("acme-key")); w.Code != 400 || len(r.twin.traits) != 0 {
			t.Fatalf("what may be meant as a dry run, %s: %d %s, %d taken", query, w.Code, w.Body, len(r.twin.traits))
		}
	}
	w = r.serve("POST", "/v1/traits", body, auth, key("acme-key"))
	var got []string
	for _, part := range strings.SplitAfter(w.Body.String(), `"index":`)[1:] {
		got = append(got, strings.Split(part, ",")[0]+strings.Split(strings.SplitAfter(part, `"code":"`)[1], `"`)[0])
	}
	if want := "1pii 2pii 3pii 4event 5event 6event 7json 8json 10pii"; strings.Join(got, " ") != want || !strings.Contains(w.Body.String(), `"accepted":3`) {
		t.Errorf("refused %v, want %s\n%s", got, want, w.Body)
	}
	if len(r.twin.traits) != 3 || len(r.twin.traits[0].Set) != 3 {
		t.Errorf("taken: %+v", r.twin.traits)
	}
	r.tell([]step{
		{"report key", "acme-report", "POST", "/v1/traits", body, 403, "forbidden"},
		{"nothing", "acme-key", "POST", "/v1/traits", `{"rows":[]}`, 400, "json"},
		{"unknown field", "acme-key", "POST", "/v1/traits", `{"rows":[{"identity":"a","traits":{},"x":1}]}`, 400, "json"},
		{"a single one, reserved", "acme-key", "PATCH", "/v1/identities/browser:x/traits", `{"import.crm":4711}`, 400, "event"},
	})
}

func TestPersonalCell(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "Bern": "", "2026-11-27": "", "27.11.2026": "", "01.02.2026": "", "1234567890": "", "1795348800000": "", "12.50": "", "03012": "", "00012345678": "",
		"a text of a@b.example somewhere": "an e-mail address", "A@B.DE": "an e-mail address",
		"+41 79 123 45 67": "a telephone number", "(030) 123456-78": "a telephone number", "0049 30 12345678": "a telephone number", "+1-202-555-0143": "a telephone number",
		"4111-1111-1111-1111": "a payment card's number", "378282246310005": "a payment card's number", "4111111111111112": "", "4.111111111111111": "", "4111.1111.1111.1111": "a payment card's number", "1111111111111117": "",
		"DE89 3704 0044 0532 0130 00": "a bank account's number", "DE89370400440532013001": "",
		"192.0.2.7": "an IP address", "2001:db8::1": "an IP address", "10:30:00": "",
		"5f1c0d2a9b8e7f601122334455667788": "", strings.Repeat("9", 64): "",
	} {
		if got := gateway.PersonalCell(s); got != want {
			t.Errorf("%q is %q, want %q", s, got, want)
		}
	}
}

// Any body is answered with rows that add up, or refused as a whole.
func FuzzImportRows(f *testing.F) {
	f.Add([]byte(rows(someHash, "browser:b", "me@example.com")))
	f.Add([]byte(`{"rows":[{"identity":"` + someHash + `","traits":{"a":1,"b":null,"import.x":2}},{"identity":"x"}]}`))
	f.Add([]byte(`{"identities":["account:\ud800","account:+41791234567",""]}`))
	tw := newTwin()
	g, err := gateway.New(gateway.Config{}, tw.behind())
	if err != nil {
		f.Fatal(err)
	}
	send(g.Service(), "POST", "/v1/imports", `{"segment":"crm"}`, auth, key("acme-key"))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{"/v1/imports/1/rows", "/v1/traits"} {
			tw.traits = tw.traits[:0]
			w := send(g.Service(), "POST", path, string(body), auth, key("acme-key"))
			if w.Code != 200 {
				if w.Code >= 500 || code(w) == "" {
					t.Fatalf("%s: %d %s", path, w.Code, w.Body)
				}
				continue
			}
			checkRows(t, w, tw.traits)
		}
	})
}

func checkRows(t *testing.T, w *httptest.ResponseRecorder, taken []proto.Traits) {
	t.Helper()
	var accepted int
	if _, err := fmt.Sscanf(w.Body.String(), `{"accepted":%d,`, &accepted); err != nil || accepted != len(taken) {
		t.Fatalf("%d were taken: %s", len(taken), w.Body)
	}
	for _, x := range taken {
		if _, err := proto.ParseIdentity(string(x.Identity)); err != nil {
			t.Fatalf("%q was taken: %v", x.Identity, err)
		}
		for _, p := range x.Set {
			if gateway.PersonalCell(p.Value.Text) != "" || proto.ReservedTrait(p.Key) && p.Key != proto.StagedTrait(1) {
				t.Fatalf("%+v was taken", p)
			}
		}
	}
}
