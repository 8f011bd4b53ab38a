package segments_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/proto"
	"kith/segments"
)

// TestMentions: whatever a rule looks at is told, wherever it stands in the rule.
func TestMentions(t *testing.T) {
	text := func(list ...string) (out []proto.Value) {
		for _, s := range list {
			out = append(out, proto.TextOf(s))
		}
		return out
	}
	for when, want := range map[string][]proto.RuleMention{
		`count(true, "1d") >= 1`:           nil,
		`count(event.section == "a") >= 1`: {{Text: "event.section", Name: "section", Values: text("a")}},
		`count(event.props["url"] == 7 && !(event.section in ["b", "a"]), "1d") >= 2 && count(event.section.contains("c")) == 0`: {
			{Text: `event.props["url"]`, Name: "url", Values: []proto.Value{proto.NumberOf(7)}},
			{Text: "event.section", Name: "section", Values: text("a", "b", "c")},
		},
		`sum(event.price, event.name == "order", "7d") > 5 || distinct(event.topic) >= 2`: {
			{Text: "event.price", Name: "price"}, {Text: "event.name", Values: text("order")}, {Text: "event.topic", Name: "topic"},
		},
		`sequence(event.url.startsWith("/a"), event.ref.matches("b.*c"), "3h")`: {{Text: "event.url", Values: text("/a")}, {Text: "event.ref", Values: text("b.*c")}},
		`trait("plan") == "gold" && !member("old") && last(event.x == true) > now - "3d"`: {
			{Text: `trait("plan")`, Name: "plan", Values: text("gold")}, {Text: `member("old")`, Member: "old"}, {Text: "event.x", Name: "x", Values: []proto.Value{proto.FlagOf(true)}},
		},
	} {
		rule, err := segments.Compile(when)
		if err != nil {
			t.Fatal(when, err)
		}
		if d := cmp.Diff(want, rule.Mentions()); d != "" {
			t.Errorf("%s: %s", when, d)
		}
	}
}
