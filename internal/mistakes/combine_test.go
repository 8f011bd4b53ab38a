package mistakes

import (
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

const shop = `package shop

const open = 8

type till struct{ sum int }

func (t *till) take(amounts ...int) (sum int, err error) {
	for _, a := range amounts {
		t.sum += a
	}
	return t.sum, nil
}

func (t *till) clear() { t.sum = 0 }

func (*till) close() { println("closed") }

func first[T any](list []T) T { return list[0] }

func hour(_ int) int { return open + 1 }

func TestTill() { println("tested") }
`

// What can wait is called by the function that it changes, and only what can does.
func TestCombine(t *testing.T) {
	s, err := parseSource(shop)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		old, new string
		waits    bool
	}{
		{"t.sum += a", "t.sum -= a", true},
		{"return t.sum, nil\n}", "return 0, nil\n}", true},
		{"{ t.sum = 0 }", "{ t.sum = 1 }", false}, // with the brace: it is not within the body
		{"t.sum = 0", "t.sum = 1", true},
		{"open = 8", "open = 9", false},
		{"amounts ...int", "amounts ...int ", false},
		{`"closed"`, `""`, false},
		{"list[0]", "list[1]", false},
		{"open + 1", "open", false},
		{`"tested"`, `""`, false},
	} {
		if got := s.add(&Mistake{Name: "m" + string(rune('a'+len(s.inserts))), Old: x.old, New: x.new}); got != x.waits {
			t.Errorf("%q waits: %v", x.old, got)
		}
	}
	text := s.String()
	if _, err := parser.ParseFile(token.NewFileSet(), "", text, 0); err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
	for _, want := range []string{
		"(sum int, err error) {\nif plantedMistake == \"ma\" { return t.take__ma(amounts...) }\n",
		"func (t *till) take__ma(amounts ...int) (sum int, err error) {\n\tfor _, a := range amounts {\n\t\tt.sum -= a\n",
		"\nif plantedMistake == \"mc\" { return t.take__mc(amounts...) }\n",
		"\treturn 0, nil\n}\n",
		"func (t *till) clear() {\nif plantedMistake == \"me\" { t.clear__me(); return }\n t.sum = 0 }",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if name, text := s.chooser("shop/till_test.go"); name != "shop/planted_shop_test.go" || !strings.Contains(text, "package shop\n") {
		t.Errorf("%s:\n%s", name, text)
	}
}
