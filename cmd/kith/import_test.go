package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kith/internal/config"
	"kith/proto"
)

// customer is the keyed hash of a customer's number, as a client makes it.
func customer(n int) string {
	h := hmac.New(sha256.New, []byte("a client's own secret"))
	fmt.Fprintf(h, "customer-%d", n)
	return hex.EncodeToString(h.Sum(nil))
}

// customers is a file of them.
func customers(t *testing.T, from, to int) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("hash,note\r\n")
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "%s,\"a note,\r\nin two lines\"\r\n", customer(i))
	}
	name := filepath.Join(t.TempDir(), "list.csv")
	writeFile(t, name, b.String())
	return name
}

// as runs a command with a client's key, and wants it to succeed or fail.
func (n *liveNode) as(t *testing.T, key string, want int, args ...string) string {
	t.Helper()
	code, out, errs := command(t, strings.TrimPrefix(n.service, "http://"), "", append(args, "--key", key)...)
	if code != want {
		t.Fatalf("kith %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out, errs)
	}
	return out + errs
}

// logInAll has customers log in, each on a browser of its own.
func (n *liveNode) logInAll(t *testing.T, client string, from, to int) {
	t.Helper()
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, `{"event":"login","identities":["browser:%s%d","account:%s"]}`+"\n", client, i, customer(i))
	}
	name := filepath.Join(t.TempDir(), "events.ndjson")
	writeFile(t, name, b.String())
	n.ingest(t, "-f", name, "--client", client)
}

// exported is who an export of a segment names.
func (n *liveNode) exported(t *testing.T, expr string) map[string]bool {
	t.Helper()
	dir := t.TempDir() + "/out"
	n.as(t, config.DevKey, 0, "audience", "export", expr, "-o", dir, "--format", "csv")
	names := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".csv") {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		rows, err := csv.NewReader(f).ReadAll()
		for _, row := range rows {
			for _, cell := range row {
				if strings.Contains(cell, ":") {
					names[cell] = true
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A list's whole way: import, segment, look-up, count, export, rule, opt-out of a
// member, replacement, addition, removal, deletion; and another client sees nothing.
func TestImportAudience(t *testing.T) {
	data := t.TempDir() + "/data"
	n := startNode(t, data)
	var other struct{ Key string }
	if err := json.Unmarshal([]byte(n.kith(t, "key", "create", "--client", "rival", "--json")), &other); err != nil {
		t.Fatal(err)
	}
	n.logInAll(t, "demo", 0, 90)
	n.logInAll(t, "rival", 0, 90)
	in := func(segment string, ids ...string) {
		t.Helper()
		for _, id := range ids {
			got := strings.Fields(n.as(t, config.DevKey, 0, "lookup", id))
			if has := slices.Contains(got, segment); !has {
				t.Errorf("%s is not in %s: %v", id, segment, got)
			}
		}
	}
	out := func(segment string, ids ...string) {
		t.Helper()
		for _, id := range ids {
			if got := strings.Fields(n.as(t, config.DevKey, 0, "lookup", id)); slices.Contains(got, segment) {
				t.Errorf("%s is in %s: %v", id, segment, got)
			}
		}
	}
	audience := func(want int, file string, more ...string) string {
		t.Helper()
		return n.as(t, config.DevKey, want, append([]string{"import", "audience", file, "--segment", "crm", "--kind", "account", "--column", "hash"}, more...)...)
	}
	list := customers(t, 0, 200)

	if got := audience(0, list, "--dry-run"); !strings.Contains(got, "200 rows: 200 accepted") || !strings.Contains(got, "nothing was changed") {
		t.Errorf("a dry run: %s", got)
	}
	if got := n.as(t, config.DevKey, 0, "import", "list", "--json"); strings.Contains(got, `"id"`) {
		t.Errorf("a dry run began an import: %s", got)
	}
	if got := audience(0, list); !strings.Contains(got, "200 rows: 200 accepted, 0 refused") || !strings.Contains(got, "segment crm has the list: about ") {
		t.Errorf("the import: %s", got)
	}
	in("crm", "browser:demo3", "account:"+customer(3), "account:"+customer(199))
	if got := n.count(t, "crm"); got != 290 {
		t.Errorf("%d are in crm, want 200 accounts and 90 browsers", got)
	}
	n.as(t, config.DevKey, 0, "segments", "apply", "-f", n.segments(t, `{id: both, when: 'member("crm") && count(event.name == "login", "30d") >= 1', backfill: true}`))
	n.as(t, config.DevKey, 0, "segments", "backfill", "both", "--wait")
	in("both", "browser:demo3")
	if names := n.exported(t, "crm"); !names["browser:demo3"] || !names["account:"+customer(199)] || len(names) != 290 {
		t.Errorf("an export has %d names", len(names))
	}

	// Another client, whose customers are the same, sees nothing of it.
	if got := n.as(t, other.Key, 0, "lookup", "browser:demo3", "account:"+customer(3)); strings.Contains(got, "crm") {
		t.Errorf("another client sees %s", got)
	}
	if got := n.as(t, other.Key, 0, "import", "list", "--json"); strings.Contains(got, `"id"`) {
		t.Errorf("another client's imports are %s", got)
	}
	if got := n.as(t, other.Key, exitFailed, "import", "delete", "1"); !strings.Contains(got, "no import") {
		t.Errorf("another client deletes: %s", got)
	}

	// One who opts out is gone, and does not come back with the list.
	victim := "account:" + customer(5)
	receipt := filepath.Join(t.TempDir(), "receipt.json")
	writeFile(t, receipt, n.as(t, config.DevKey, 0, "optout", victim))
	out("crm", victim, "browser:demo5")
	for range 2 {
		if names := n.exported(t, "crm"); names[victim] || names["browser:demo5"] || len(names) != 288 {
			t.Errorf("after the opt-out an export has %d names", len(names))
		}
		audience(0, list, "--add")
	}
	if got := n.as(t, config.DevKey, 0, "receipt", "verify", receipt); !strings.Contains(got, "signature: good") {
		t.Errorf("the receipt: %s", got)
	}

	// The same name again must say what becomes of the list.
	if got := audience(exitFailed, list); !strings.Contains(got, "whether to replace it") {
		t.Errorf("a list that is there: %s", got)
	}
	audience(0, customers(t, 20, 150), "--replace")
	in("crm", "browser:demo20", "account:"+customer(149))
	out("crm", "browser:demo19", "account:"+customer(19), "account:"+customer(199))
	if got := n.as(t, config.DevKey, 0, "lookup", "account:"+customer(199), "--json"); !strings.Contains(got, `"known": false`) {
		t.Errorf("who was on the old list only is still known: %s", got)
	}
	audience(0, customers(t, 19, 20), "--add")
	in("crm", "browser:demo19")
	audience(0, customers(t, 20, 22), "--remove")
	out("crm", "browser:demo20", "account:"+customer(21))
	in("crm", "browser:demo22")
	if got := audience(exitFailed, customers(t, 60, 500), "--replace"); !strings.Contains(got, "fewer than 50 people") {
		t.Errorf("a list that matches 30: %s", got)
	}
	in("crm", "browser:demo22", "browser:demo19")

	// Files that are no lists of hashes change nothing.
	for name, text := range map[string]string{
		"mails":   "hash\nme@example.com\nyou@example.com\n",
		"phones":  "hash,phone\n" + customer(1) + ",+41 79 123 45 67\n",
		"numbers": "hash\n4711\n4712\n",
		"no head": customer(1) + "\n" + customer(2) + "\n",
	} {
		bad := filepath.Join(t.TempDir(), "bad.csv")
		writeFile(t, bad, text)
		if got := audience(exitFailed, bad, "--replace"); !strings.Contains(got, "nothing was changed") && !strings.Contains(got, "not a header") || strings.Contains(got, "example.com") {
			t.Errorf("%s: %s", name, got)
		}
	}
	in("crm", "browser:demo22")
	n.kith(t, "verify")
	if got := n.as(t, config.DevKey, exitFailed, "segments", "delete", "crm"); !strings.Contains(got, "both") {
		t.Errorf("a list that a rule names: %s", got)
	}
	n.as(t, config.DevKey, 0, "segments", "delete", "both")
	n.as(t, config.DevKey, 0, "segments", "delete", "crm")
	out("crm", "browser:demo22")
	n.kith(t, "verify")
	if code := n.stop(); code != 0 {
		t.Errorf("the node ended with %d", code)
	}
	n.kith(t, "verify", "--data", data)
}

// segments is a file of one segment.
func (n *liveNode) segments(t *testing.T, line string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "segments.yaml")
	writeFile(t, name, "segments:\n  - "+line+"\n")
	return name
}

func TestImportTraits(t *testing.T) {
	n := startNode(t, t.TempDir())
	n.as(t, config.DevKey, 0, "segments", "apply", "-f", n.segments(t, `{id: gold, scope: identity, when: 'trait("tier") == "gold" && trait("since") <= 2020'}`))
	file := filepath.Join(t.TempDir(), "crm.csv")
	writeFile(t, file, "who,level,since,mail\n"+customer(1)+",gold,2019,\n"+customer(2)+",gold,2021,\n"+customer(3)+",silver,2001,\n"+customer(4)+",gold,2001,me@example.com\n")
	load := func(more ...string) string {
		return n.as(t, config.DevKey, 0, append([]string{"import", "traits", file, "--identity-column", "who", "--kind", "account", "--map", "level=tier,since=since"}, more...)...)
	}
	if got := load("--dry-run"); !strings.Contains(got, "3 accepted, 1 refused") || !strings.Contains(got, `"mail" holds an e-mail address`) || !strings.Contains(got, "line 5") {
		t.Errorf("a dry run: %s", got)
	}
	if got := n.as(t, config.DevKey, 0, "lookup", "account:"+customer(1), "--json"); !strings.Contains(got, `"known": false`) {
		t.Errorf("a dry run made somebody known: %s", got)
	}
	load()
	for i, want := range []bool{1: true, 2: false, 3: false, 4: false} {
		if got := n.as(t, config.DevKey, 0, "lookup", "account:"+customer(i)); strings.Contains(got, "gold") != want {
			t.Errorf("customer %d: %s", i, got)
		}
	}
}

// A node is killed while a list is loaded, and again while an accepted one is
// being put into place: before the commit the old list answers, after it the new
// one does in the end, and nobody else.
func TestImportsOverKills(t *testing.T) {
	const size = 6000
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	data := t.TempDir() + "/data"
	p := startProcess(t, data)
	load := &killLoad{data: data}
	rows := func(p *process, id string, from, to int) error {
		for ; from < to; from += 500 {
			var ids []string
			for i := from; i < min(from+500, to); i++ {
				ids = append(ids, fmt.Sprintf("account:%064x", i+1))
			}
			if err := p.call(t.Context(), http.MethodPost, importPath(id, "/rows"), "demo-key", map[string]any{"identities": ids}, nil); err != nil {
				return err
			}
		}
		return nil
	}
	begin := func(p *process) string {
		t.Helper()
		var i proto.ImportStatus
		if err := p.call(t.Context(), http.MethodPost, "/v1/imports", "demo-key", map[string]string{"segment": "crm", "mode": "replace"}, &i); err != nil {
			t.Fatal(err)
		}
		return i.ID
	}
	// The admin's key has no floor.
	commit := func(p *process, id string) (i proto.ImportStatus, err error) {
		for i.State != "active" && err == nil {
			err = p.call(t.Context(), http.MethodPost, importPath(id, "/commit"), "dev-admin-key", nil, &i)
		}
		return i, err
	}
	id := begin(p)
	if err := rows(p, id, 0, size); err != nil {
		t.Fatal(err)
	}
	if _, err := commit(p, id); err != nil {
		t.Fatal(err)
	}
	if got := load.count(t, p, "crm"); got != size {
		t.Fatalf("%d are in crm, want %d", got, size)
	}

	// While rows come.
	id = begin(p)
	broken := make(chan error)
	go func() { broken <- rows(p, id, size/2, 3*size/2) }()
	time.Sleep(time.Duration(chance.IntN(60)) * time.Millisecond)
	p.kill()
	t.Logf("the rows broke off: %v", <-broken)
	p = startProcess(t, data)
	if got := load.count(t, p, "crm"); got != size {
		t.Errorf("after the first kill %d are in crm, want %d as before", got, size)
	}
	if err := rows(p, id, size/2, 3*size/2); err != nil { // the same ones again do no harm
		t.Fatal(err)
	}

	// While it is decided about and put into place.
	for round := range 4 {
		go func() { _, err := commit(p, id); broken <- err }()
		time.Sleep(time.Duration(chance.IntN(40+80*round)) * time.Millisecond)
		p.kill()
		t.Logf("the commit broke off: %v", <-broken)
		p = startProcess(t, data)
		if got := load.count(t, p, "crm"); got < size/2 || got > 3*size/2 {
			t.Errorf("after a kill %d are in crm: some are missing who are on both lists", got)
		}
	}
	if i, err := commit(p, id); err != nil {
		t.Fatalf("%+v, %v", i, err)
	}
	if got := load.count(t, p, "crm"); got != size {
		t.Errorf("in the end %d are in crm, want %d", got, size)
	}
	for n, want := range map[int]bool{0: false, size/2 - 1: false, size / 2: true, 3*size/2 - 1: true} {
		var out struct{ Results []lookupResult }
		who := map[string]any{"identities": []string{fmt.Sprintf("account:%064x", n+1)}}
		if err := p.call(t.Context(), http.MethodPost, "/v1/lookup", "demo-key", who, &out); err != nil {
			t.Fatal(err)
		}
		if got := out.Results[0]; got.Known != want || (strings.Join(got.Segments, " ") == "crm") != want {
			t.Errorf("account %d: %+v, want it in crm and known: %v", n, got, want)
		}
	}
	p.kill()
	if code, out, errs := command(t, "", "", "verify", "--data", data); code != 0 {
		t.Errorf("verify: exit code %d\n%s%s", code, out, errs)
	}
}
