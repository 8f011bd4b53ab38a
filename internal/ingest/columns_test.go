package ingest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"kith/internal/ingest"
	"kith/proto"
)

// listNode takes rows of a client's own files into memory.
type listNode struct {
	t      testing.TB
	bodies []string
	rows   []string // as sent
	judge  func(row string, tries int) proto.Code
	tries  map[string]int
}

func (n *listNode) Post(_ context.Context, body []byte) (ingest.Answer, error) {
	var in map[string][]json.RawMessage
	if err := json.Unmarshal(body, &in); err != nil || len(in) != 1 {
		n.t.Errorf("sent what is no body of rows: %v\n%q", err, body)
	}
	n.bodies = append(n.bodies, string(body))
	a := ingest.Answer{Position: fmt.Sprintf("0:%d", len(n.bodies))}
	for _, list := range in {
		for i, row := range list {
			n.tries[string(row)]++
			if n.judge != nil {
				if code := n.judge(string(row), n.tries[string(row)]); code != "" {
					a.Refused = append(a.Refused, ingest.Refusal{Index: i, Code: code, Message: "no"})
					continue
				}
			}
			a.Accepted++
			n.rows = append(n.rows, string(row))
		}
	}
	return a, nil
}

// personal is a stand-in for the gateway's rules.
func personal(cell string) string {
	if strings.Contains(cell, "@") {
		return "an e-mail address"
	}
	return ""
}

// loadList loads an input as a list or as traits.
func loadList(t testing.TB, n *listNode, input []byte, f ingest.Format, c ingest.Columns) (ingest.Report, error) {
	t.Helper()
	src, err := ingest.OpenSource("-", bytes.NewReader(input), false)
	if err != nil {
		t.Fatal(err)
	}
	n.t, n.tries = t, map[string]int{}
	c.Personal = personal
	return ingest.Run(context.Background(), src, n, ingest.Options{Format: f, Columns: c, Wait: noWait, BatchEventsMax: 3, PostsMax: 1})
}

const hash1, hash2 = "5f1c0d2a9b8e7f601122334455667788", "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="

// refusals are the reasons and lines of what was refused.
func refusals(r ingest.Report) (list []string) {
	for _, e := range r.Examples {
		list = append(list, fmt.Sprintf("%d %s", e.Line, e.Reason))
	}
	return list
}

func TestListFiles(t *testing.T) {
	account := ingest.Columns{Kind: "account"}
	for _, x := range []struct {
		name, input string
		columns     ingest.Columns
		rows        []string
		refused     []string
		fails       string
	}{
		{"identities", "identity\naccount:a1\nbrowser:b1\n", ingest.Columns{}, []string{`"account:a1"`, `"browser:b1"`}, nil, ""},
		{"any name of the only column", "who\naccount:a1\n", ingest.Columns{}, []string{`"account:a1"`}, nil, ""},
		{"byte order mark, CRLF, no end", "\ufeffidentity,x\r\naccount:a1,1\r\naccount:a2,2", ingest.Columns{}, []string{`"account:a1"`, `"account:a2"`}, nil, ""},
		{"quotes over lines", "x,identity\n\"a \"\"note\"\"\nin, two lines\",account:a1\n\"\",\"account:a2\"\nb,account:a3\n", ingest.Columns{}, []string{`"account:a1"`, `"account:a2"`, `"account:a3"`}, nil, ""},
		{"a quote that is not closed", "x,identity\na,account:a1\n\"b,account:a2\nc,account:a3\n", ingest.Columns{}, []string{`"account:a1"`}, []string{"3 malformed"}, ""},
		{"a quote in the middle takes one row only", "x,identity\na 5\" pipe,account:a1\nb,account:a2\n", ingest.Columns{}, []string{`"account:a2"`}, []string{"2 malformed"}, ""},
		{"bare hashes", "h\n" + hash1 + "\n" + hash2 + "\n", account, []string{`"account:` + hash1 + `"`, `"account:` + hash2 + `"`}, nil, ""},
		{"hashes with their kind", "h\naccount:" + hash1 + "\n", account, []string{`"account:` + hash1 + `"`}, nil, ""},
		{"what is no hash", "h\n4711\njohn.smith\nAverylongbutplainuser name\n" + hash1[:30] + "\n" + strings.Repeat("ab", 65) + "\nthisisalongwordwithoutcapitals\n41791234567\n", account, nil,
			[]string{"2 identity", "3 identity", "4 identity"}, ""},
		{"bare without a kind", "h\n" + hash1 + "\n", ingest.Columns{}, nil, []string{"2 identity"}, ""},
		{"devices", "d\n6D92078A-8246-4BA4-AE5B-76104861E7DC\n" + hash1 + "\n", ingest.Columns{Kind: "idfa"}, []string{`"idfa:6D92078A-8246-4BA4-AE5B-76104861E7DC"`}, []string{"3 identity"}, ""},
		{"personal data in another column", "mail,identity\nme@example.com,account:a1\nx,account:a2\n", ingest.Columns{}, []string{`"account:a2"`}, []string{"2 pii"}, ""},
		{"personal data behind a line break", "note,identity\n\"call\nme@example.com\",account:a1\nx,me@example.com\nx,account:a3\n", ingest.Columns{}, []string{`"account:a3"`}, []string{"2 pii", "4 pii"}, ""},
		{"a named column", "id,crm\n7,account:a1\n", ingest.Columns{Identity: "crm"}, []string{`"account:a1"`}, nil, ""},
		{"cells", "identity,x\naccount:a1\naccount:a2,1\n,1\n", ingest.Columns{}, []string{`"account:a2"`}, []string{"2 malformed", "4 identity"}, ""},
		{"sent again", "identity\naccount:a1\naccount:again\n", ingest.Columns{}, []string{`"account:a1"`, `"account:again"`}, nil, ""},
		{"refused by the node", "identity\naccount:a1\naccount:no\n", ingest.Columns{}, []string{`"account:a1"`}, []string{"3 pii"}, ""},
		{"header only", "identity\n", ingest.Columns{}, nil, nil, ""},
		{"no such column", "a,b\n1,2\n", ingest.Columns{Identity: "c"}, nil, nil, `no column "c": the header has "a", "b"`},
		{"none that is known", "a,b\n1,2\n", ingest.Columns{}, nil, nil, `no column "identity"`},
		{"semicolons", "identity;x\naccount:a1;1\n", ingest.Columns{Identity: "identity"}, nil, nil, "separated by commas"},
		{"semicolons and no name", "crm;x\naccount:a1;1\n", ingest.Columns{}, nil, nil, "separated by commas"},
		{"tabs and no name", "crm\tx\naccount:a1\t1\n", ingest.Columns{}, nil, nil, "separated by commas"},
		{"bars and a kind", "h|x\n" + hash1 + "|1\n", account, nil, nil, "separated by commas"},
		{"a semicolon in the name of the column", "a;b\naccount:a1\n", ingest.Columns{Identity: "a;b"}, []string{`"account:a1"`}, nil, ""},
		{"no header", "account:a1\naccount:a2\n", ingest.Columns{}, nil, nil, "a row, not a header"},
		{"no header of hashes", hash1 + "\n" + hash2 + "\n", account, nil, nil, "a row, not a header"},
		{"a long name of a column", "identity,LastPurchaseCategoryName\naccount:a1,shoes\n", ingest.Columns{}, []string{`"account:a1"`}, nil, ""},
		{"a long name of the column", "LastActivityDateTimeUTC__c\naccount:a1\n", ingest.Columns{Identity: "LastActivityDateTimeUTC__c"}, []string{`"account:a1"`}, nil, ""},
		{"no header of hashes and others", hash1 + ",1\n" + hash2 + ",2\n", ingest.Columns{Kind: "account", Identity: "hash"}, nil, nil, "a row, not a header"},
		{"no header of personal data", "me@example.com\n", account, nil, nil, "a row, not a header"},
		{"a column twice", "a,a\n", ingest.Columns{}, nil, nil, `"a" twice`},
		{"not UTF-8", "\xff\xfei\x00d\x00\n", ingest.Columns{}, nil, nil, "UTF-8"},
	} {
		t.Run(x.name, func(t *testing.T) {
			n := &listNode{judge: func(row string, tries int) proto.Code {
				switch {
				case row == `"account:again"` && tries == 1:
					return proto.CodeOverloaded
				case row == `"account:no"`:
					return proto.CodePII
				}
				return ""
			}}
			for name, input := range map[string][]byte{"plain": []byte(x.input), "gzip": zipped(t, x.input), "zstd": zstded(t, x.input)} {
				n.rows = nil
				r, err := loadList(t, n, input, ingest.Identities, x.columns)
				if x.fails != "" {
					if err == nil || !strings.Contains(err.Error(), x.fails) {
						t.Fatalf("%s: %v, want %q", name, err, x.fails)
					}
					continue
				}
				if err != nil {
					t.Fatal(name, err)
				}
				if d := cmp.Diff(x.rows, n.rows); d != "" {
					t.Errorf("%s: rows (-want +sent):\n%s", name, d)
				}
				if d := cmp.Diff(x.refused, refusals(r)); d != "" {
					t.Errorf("%s: refused (-want +got):\n%s", name, d)
				}
				if r.Accepted+r.Refused != r.Lines || r.Accepted != int64(len(x.rows)) || r.Unsent != 0 {
					t.Errorf("%s: %+v", name, r)
				}
			}
		})
	}
}

func zipped(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t *testing.T, s string) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll([]byte(s), nil)
}

func TestTraitFiles(t *testing.T) {
	const input = "identity,city,note,age\naccount:a1,Bern,\"x, y\",34\naccount:a2,,,\naccount:a3, Basel ,,\n"
	for _, x := range []struct {
		name    string
		columns ingest.Columns
		want    []string
		fails   string
	}{
		{"all columns", ingest.Columns{}, []string{`{"identity":"account:a1","traits":{"city":"Bern","note":"x, y","age":"34"}}`, `{"identity":"account:a3","traits":{"city":"Basel"}}`}, ""},
		{"some, renamed", ingest.Columns{Traits: []ingest.Column{{Name: "age", Trait: "years"}}}, []string{`{"identity":"account:a1","traits":{"years":"34"}}`}, ""},
		{"no such column", ingest.Columns{Traits: []ingest.Column{{Name: "sex", Trait: "sex"}}}, nil, `no column "sex"`},
		{"no such identity", ingest.Columns{Identity: "who"}, nil, `no column "who"`},
	} {
		n := &listNode{}
		_, err := loadList(t, n, []byte(input), ingest.Traits, x.columns)
		if (err != nil) != (x.fails != "") || err != nil && !strings.Contains(err.Error(), x.fails) {
			t.Errorf("%s: %v, want %q", x.name, err, x.fails)
		}
		if d := cmp.Diff(x.want, n.rows); d != "" {
			t.Errorf("%s (-want +sent):\n%s", x.name, d)
		}
	}
	if _, err := loadList(t, &listNode{}, []byte("identity\naccount:a1\n"), ingest.Traits, ingest.Columns{}); err == nil || !strings.Contains(err.Error(), "no traits to set") {
		t.Errorf("a file without traits: %v", err)
	}
}

// expands reports whether a small input is a large one once decompressed.
func expands(t *testing.T, input []byte) bool {
	src, err := ingest.OpenSource("-", bytes.NewReader(input), false)
	if err != nil {
		t.Fatal(err)
	}
	in, err := src.Open()
	if err != nil {
		return false
	}
	defer in.Close()
	n, _ := io.Copy(io.Discard, io.LimitReader(in, 1<<20))
	return n == 1<<20
}

// Whatever an input holds, its rows are counted once, no row that is sent holds
// personal data or is anything but one JSON value, and a kind's values are hashes.
func FuzzLists(f *testing.F) {
	f.Add([]byte("identity,x\naccount:a1,\"1\n2\"\n"), false, false)
	f.Add([]byte("\ufeffh\r\n"+hash1+"\r\n"+hash2+"\r\nme@example.com"), false, true)
	f.Add([]byte("identity,city\naccount:a1,Bern\naccount:a2,\"B\"\"ern\"\n\"x"), true, false)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 1, 2}, true, true)
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0}, false, false)
	f.Fuzz(func(t *testing.T, input []byte, traits, bare bool) {
		format, columns := ingest.Identities, ingest.Columns{}
		if traits {
			format = ingest.Traits
		}
		if bare {
			columns.Kind = "account"
		}
		if expands(t, input) {
			t.Skip("it expands to much")
		}
		n := &listNode{}
		r, err := loadList(t, n, input, format, columns)
		if err == nil && (r.Accepted+r.Refused != r.Lines || r.Unsent != 0 || r.Accepted != int64(len(n.rows))) {
			t.Fatalf("%+v, %d rows", r, len(n.rows))
		}
		for _, row := range n.rows {
			if strings.Contains(row, "@") && !traits || bare && !strings.Contains(row, `"account:`) {
				t.Fatalf("sent %s", row)
			}
		}
	})
}
