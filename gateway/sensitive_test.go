package gateway_test

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// sensitiveCase is one line of testdata/sensitive.tsv.
type sensitiveCase struct{ kind, place, text string }

func (c sensitiveCase) judged() string {
	switch c.place {
	case "name":
		return gateway.FindSensitive(c.text, proto.FlagOf(true))
	case "id":
		return gateway.FindSensitiveID(c.text)
	case "text":
		return gateway.FindSensitive("title", proto.TextOf(c.text))
	}
	return gateway.FindSensitive("page_section", proto.TextOf(c.text))
}

// sensitiveTally is how many were found of how many.
type sensitiveTally struct{ all, found map[string]int }

// measureSensitive prints precision and recall over cases.
func measureSensitive(t *testing.T, what string, cases []sensitiveCase) (precision, recall float64) {
	t.Helper()
	x := sensitiveTally{map[string]int{}, map[string]int{}}
	right, wrong, all := 0, 0, 0
	for _, c := range cases {
		got := c.judged()
		x.all[c.kind]++
		switch {
		case got == "none" && c.kind == "-":
		case c.kind == "-":
			wrong++
			t.Logf("%s: taken for %s: %s %q", what, got, c.place, c.text)
		case got == "none":
			t.Logf("%s: %s missed: %s %q", what, c.kind, c.place, c.text)
		default:
			right++
			x.found[c.kind]++
			if got != c.kind {
				t.Logf("%s: %s taken for %s: %s %q", what, c.kind, got, c.place, c.text)
			}
		}
	}
	for _, kind := range proto.SensitiveCategories {
		if n := x.all[kind]; n > 0 {
			t.Logf("%s: %s: %d of %d", what, kind, x.found[kind], n)
		}
		all += x.all[kind]
	}
	precision, recall = float64(right)/float64(max(right+wrong, 1)), float64(right)/float64(max(all, 1))
	t.Logf("%s: precision %.3f (%d right, %d of %d wrong), recall %.3f", what, precision, right, wrong, x.all["-"], recall)
	return precision, recall
}

func TestSensitiveCorpus(t *testing.T) {
	f, err := os.Open("testdata/sensitive.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var cases []sensitiveCase
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if parts := strings.Split(lines.Text(), "\t"); len(parts) == 3 {
			cases = append(cases, sensitiveCase{parts[0], parts[1], parts[2]})
		}
	}
	if len(cases) < 350 {
		t.Fatalf("the corpus has %d lines", len(cases))
	}
	precision, recall := measureSensitive(t, "corpus", cases)
	if precision < 0.97 || recall < 0.97 {
		t.Errorf("precision %.3f and recall %.3f, want 0.97 of both", precision, recall)
	}
}

// taxonomy reads one of IAB's files: parent and name by id.
func taxonomy(t *testing.T, file string, id, parent, name int) (parents, names map[string]string) {
	t.Helper()
	b, err := os.ReadFile("../../shared/data/" + file)
	if err != nil {
		t.Skip("IAB's taxonomies are not here:", err)
	}
	parents, names = map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), "\t")
		if len(f) <= name || strings.Contains(f[id], " ") || f[id] == "" {
			continue
		}
		tiers := strings.Split(strings.Trim(f[name], " |"), "|")
		parents[f[id]], names[f[id]] = f[parent], strings.TrimSpace(tiers[len(tiers)-1])
	}
	return parents, names
}

// TestSensitiveTaxonomies reads the real taxonomies: the ids on the list are theirs,
// with all below them, and the words find what the ids say.
func TestSensitiveTaxonomies(t *testing.T) {
	// What stands below a listed id and is not sensitive itself.
	apart := map[string]bool{"456": true, "532": true, "234": true, "417": true} // astrology; war and conflicts; herbs
	for _, x := range []struct {
		name, file       string
		id, parent, text int
		rows             int
		recall           float64
	}{
		{"content", "iab_content_taxonomy_3.1.tsv", 0, 1, 2, 700, 0.9},
		{"audience", "iab_audience_taxonomy_1.1.tsv", 1, 2, 3, 1500, 0.8},
	} {
		t.Run(x.name, func(t *testing.T) {
			parents, names := taxonomy(t, x.file, x.id, x.parent, x.text)
			ids := gateway.SensitiveIDs(x.name)
			if len(names) < x.rows || len(ids) < 40 {
				t.Fatalf("%d rows, %d ids", len(names), len(ids))
			}
			for id := range ids {
				if names[id] == "" {
					t.Errorf("%s is not in the taxonomy", id)
				}
			}
			var cases []sensitiveCase
			for id, name := range names {
				if ids[parents[id]] != "" && ids[id] == "" && !apart[id] {
					t.Errorf("%s (%s) is below %s, which is sensitive", id, name, names[parents[id]])
				}
				prop := "iab_" + x.name
				if got := gateway.FindSensitive(prop, proto.TextOf("1,"+id)); got != "none" != (ids[id] != "") {
					t.Errorf("%s %s is judged %s, listed as %q", prop, id, got, ids[id])
				}
				kind := ids[id]
				if kind == "" {
					kind = "-"
				}
				cases = append(cases, sensitiveCase{kind, "label", name})
			}
			precision, recall := measureSensitive(t, x.name, cases)
			if precision < 0.8 || recall < x.recall {
				t.Errorf("of names: precision %.3f, recall %.3f", precision, recall)
			}
		})
	}
}

func TestSensitiveWords(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"section", "Health", "health"}, {"section", "HEALTH", "health"}, {"section", "healthy", "none"},
		{"section", "essex", "none"}, {"section", "sex", "sexuality"}, {"title", "sex", "sexuality"}, {"title", "sex and the city", "none"},
		{"title", "the sex of angels", "none"},             // not a label
		{"section", "a%2Fdiabetes%2Fb", "health"},          // an escape ends a word
		{"section", "Ju\u0308dische Gemeinde", "religion"}, // an umlaut of two characters
		{"section", "Jüdische Gemeinde", "religion"},       //
		{"section", "juedische gemeinde", "religion"},      //
		{"section", "sport > unionmembers > x", "union"},   // an open term
		{"section", "credit union members", "none"},        // the longest term counts
		{"section", "news\u00a0politics", "politics"},      // any space
		{"iab_cat", "286", "health"}, {"iab_cat", "2,324", "none"}, {"iab_cat", "2; 386", "politics"}, {"iab_cat", "[\"1\",\"453\"]", "religion"},
		{"cat", "286", "none"}, // of a shop, as far as anybody knows
		{"iab_audience", "286", "none"}, {"iab_audience", "381", "health"},
		{"cat", "IAB7-39", "sexuality"}, {"cat", "IAB7-3", "health"}, {"cat", "iab7-32", "none"}, {"cat", "IAB17-3", "none"},
		{"section", "", "none"}, {"", "", "none"}, {"section", "\xff\xfehealth", "health"}, {"section", " - % -- %2", "none"},
		{"section", "%%%zz%e", "none"}, {"Religion", "x", "religion"}, {"myReligion", "x", "religion"}, {"religion2", "x", "religion"},
	} {
		if got := gateway.FindSensitive(c.name, proto.TextOf(c.text)); got != c.want {
			t.Errorf("%s=%q names %s, want %s", c.name, c.text, got, c.want)
		}
	}
	if got := gateway.FindSensitive("iab_category_id", proto.NumberOf(386)); got != "politics" {
		t.Errorf("a number names %s", got)
	}
	if got := gateway.FindSensitive("age", proto.NumberOf(386)); got != "none" {
		t.Errorf("a number that is no id names %s", got)
	}
}

func TestSensitiveSettings(t *testing.T) {
	c := gateway.Sensitive{
		Allow:  []string{"politics"},
		Except: []string{"Church Fenton", "name:race", "iab-content:228"},
		Also:   []string{"payday loan*", "only:Kredit", "iab-content:389", "*wetten"},
	}
	for _, x := range []struct{ name, text, want string }{
		{"section", "politics", "none"}, {"section", "politics and religion", "religion"}, {"political_party", "x", "none"}, {"iab_cat", "386", "none"},
		{"section", "Church Fenton", "none"}, {"section", "church", "religion"}, {"race", "Monaco", "none"}, {"ethnicity", "x", "ethnicity"},
		{"iab_cat", "228", "none"}, {"iab_cat", "238", "health"}, {"iab_cat", "389", "own"},
		{"section", "Payday Loans", "own"}, {"section", "kredit", "own"}, {"section", "kredit und mehr", "none"}, {"section", "Sportwetten", "own"},
	} {
		if got := gateway.FindSensitiveFor(c, x.name, proto.TextOf(x.text)); got != x.want {
			t.Errorf("%s=%q names %s, want %s", x.name, x.text, got, x.want)
		}
	}
	for _, bad := range []gateway.Sensitive{
		{Allow: []string{"heath"}}, {Also: []string{"abc*"}}, {Also: []string{"a*b"}}, {Also: []string{"--"}}, {Except: []string{"*two words"}}, {Also: []string{"iab-content:"}},
		{Also: []string{"iab-audience:1,2"}}, {Also: []string{"*both*"}},
	} {
		config := gateway.Config{Sensitive: map[proto.ClientName]gateway.Sensitive{"acme": bad}}
		if err := config.Validate(); proto.CodeOf(err) != proto.CodeInvalid || !strings.Contains(err.Error(), "acme") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestSensitiveAllocatesNothing(t *testing.T) {
	find := gateway.SensitiveFinder()
	props := []proto.Prop{
		{Key: "section", Value: proto.TextOf("sport/football")}, {Key: "pageTitle", Value: proto.TextOf("Größe und Gewicht")},
		{Key: "iab_cat", Value: proto.TextOf("1,2,3")}, {Key: "price", Value: proto.NumberOf(12.5)}, {Key: "iab", Value: proto.NumberOf(12)},
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, p := range props {
			if got := find(p); got != "none" {
				t.Fatal(p, got)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkSensitive(b *testing.B) {
	find := gateway.SensitiveFinder()
	props := []proto.Prop{
		{Key: "section", Value: proto.TextOf("auto")}, {Key: "price", Value: proto.NumberOf(12500.5)}, {Key: "author", Value: proto.TextOf("Desk, 12:30")},
		{Key: "title", Value: proto.TextOf("BMW 320d Touring, used, 12 months of warranty")}, {Key: "keywords", Value: proto.TextOf("bmw, used cars, diesel, touring")},
	}
	for b.Loop() {
		for _, p := range props {
			if find(p) != "none" {
				b.Fatal(p)
			}
		}
	}
}

func FuzzSensitive(f *testing.F) {
	for _, s := range []string{"health", "Ju\u0308dische", "%2F", "\xff", "IAB7-39", "1,2;3", "a b c ", "ÄÖÜß", "sex pistols"} {
		f.Add("section", s)
		f.Add(s, "x")
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		if got := gateway.FindSensitive(name, proto.TextOf(text)); got == "" {
			t.Fatal("no answer")
		}
		words := gateway.Words(text)
		if again := gateway.Words(words); again != words {
			t.Fatalf("words of %q are %q, and of that %q", text, words, again)
		}
		if words != "" && (strings.HasPrefix(words, " ") || !strings.HasSuffix(words, " ") || strings.Contains(words, "  ")) {
			t.Fatalf("words of %q are %q", text, words)
		}
	})
}
