package bench_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/internal/bench"
	"kith/proto"
	"kith/segments"
)

// The links make the users that they are said to make: an account and one to
// four browsers each, nobody in two of them, whatever the connection.
func TestPeople(t *testing.T) {
	pairs, users := bench.People(3, 400)
	accounts := map[proto.Identity][]proto.Identity{}
	seen, turned := map[proto.Identity]bool{}, 0
	for _, p := range pairs {
		account, browser := p[0], p[1]
		if strings.HasPrefix(string(browser), "account:") {
			account, browser = browser, account
			turned++
		}
		if !strings.HasPrefix(string(account), "account:") || !strings.HasPrefix(string(browser), "browser:") || seen[browser] {
			t.Fatalf("the link of %q", p)
		}
		seen[browser] = true
		accounts[account] = append(accounts[account], browser)
	}
	sizes := map[int]int{}
	for _, u := range users {
		want := append([]proto.Identity{u[0]}, accounts[u[0]]...)
		slices.Sort(want)
		slices.Sort(u)
		if d := cmp.Diff(want, u); d != "" {
			t.Fatalf("a user (-want +got):\n%s", d)
		}
		sizes[len(u)]++
	}
	if len(users) != 1200 || len(accounts) != 1200 || len(sizes) != 4 || sizes[2] < 200 || sizes[5] < 200 {
		t.Errorf("%d users of sizes %v", len(users), sizes)
	}
	if turned < len(pairs)/3 || turned > len(pairs)*2/3 {
		t.Errorf("%d of %d events name the account first", turned, len(pairs))
	}
}

// What is posted is what the routes take.
func TestLinkRequests(t *testing.T) {
	body := func(b []byte, into any) {
		t.Helper()
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	events, link := bench.LinkRequests(7)
	var s sent
	body(events, &s)
	if len(s.Events) != 7 {
		t.Errorf("%d events", len(s.Events))
	}
	for _, e := range s.Events {
		if len(e.Identities) != 2 || e.Identities[0] == e.Identities[1] {
			t.Errorf("an event of %q", e.Identities)
		}
		for _, id := range e.Identities {
			if _, err := proto.ParseIdentity(id); err != nil {
				t.Error(err)
			}
		}
	}
	var x struct{ A, B string }
	body(link, &x)
	if fmt.Sprint(x.A[:8], x.B[:8]) != "browser:account:" && fmt.Sprint(x.A[:8], x.B[:8]) != "account:browser:" {
		t.Errorf("a link of %q and %q", x.A, x.B)
	}
}

// One of each person opts out; when all did, the load is over.
func TestDepartures(t *testing.T) {
	all, over := bench.Departures(100, 1, 0)
	if !over || len(slices.Compact(slices.Sorted(slices.Values(all)))) != 100 {
		t.Errorf("over %v, %d requests", over, len(all))
	}
	if _, over := bench.Departures(100, 1, -1); over {
		t.Error("over with one left")
	}
	if more, over := bench.Departures(100, 1, 3); !over || more[102] != more[99] {
		t.Errorf("over %v, asks %s after the last, which was %s", over, more[102], more[99])
	}
	lists, over := bench.Departures(100, 10, 0)
	if !over || len(lists) != 10 {
		t.Fatalf("over %v, %d lists", over, len(lists))
	}
	var request struct{ Identities []string }
	_, body, _ := strings.Cut(lists[9], "\r\n\r\n")
	if err := json.Unmarshal([]byte(body), &request); err != nil || len(slices.Compact(slices.Sorted(slices.Values(request.Identities)))) != 10 {
		t.Errorf("the last list is %s: %v", body, err)
	}
}

// An answer that is not what was asked for ends the measurement.
func TestDecided(t *testing.T) {
	for answer, want := range map[string]int{`{"linked":true}`: 1, `{"linked":false,"reason":"cap"}`: 0, ``: 0} {
		if n, err := bench.LinkAnswered(answer); n != want || (err == nil) != (want == 1) {
			t.Errorf("%s: %d, %v", answer, n, err)
		}
	}
	const final = `{"final":true,"receipt":{"signature":"00"}}`
	for answer, want := range map[string]int{final: 1, `{"final":false}`: 0, `{"final":true}`: 0} {
		if n, err := bench.OptOutAnswered(1, answer); n != want || (err == nil) != (want == 1) {
			t.Errorf("%s: %d, %v", answer, n, err)
		}
	}
	for answer, want := range map[string]int{final + final: 2, final: 0, final + `{"final":true}`: 0} {
		if n, err := bench.OptOutAnswered(2, answer); n != want || (err == nil) != (want == 2) {
			t.Errorf("a list, %s: %d, %v", answer, n, err)
		}
	}
}

// The segments of users are such.
func TestScopes(t *testing.T) {
	for name, rules := range map[string][][2]string{"social": bench.Social(), "household": bench.Household()} {
		users := 0
		for _, r := range rules {
			if _, err := segments.Compile(r[0]); err != nil {
				t.Errorf("%s: %s: %v", name, r[0], err)
			}
			if r[1] == "user" {
				users++
			}
		}
		if want := map[string]int{"social": 5, "household": 21}[name]; users != want {
			t.Errorf("%s: %d segments of users, want %d", name, users, want)
		}
	}
}
