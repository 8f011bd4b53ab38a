package proto

// SensitiveCategories are the categories of what must not be known of people without
// their explicit consent, by the names that kith.yaml has for them.
var SensitiveCategories = [...]string{"health", "religion", "politics", "sexuality", "ethnicity", "union", "genetics", "crime", "children"}

// RuleMention is one thing that a rule looks at.
type RuleMention struct {
	// Text is how the rule writes it, such as event.section or traits.plan.
	Text string
	// Name is the name of a property or trait, "" of an event's name, url and
	// referrer.
	Name string
	// Values are what it is compared with; patterns stand as they are.
	Values []Value
	// Member is another segment instead: then nothing else is set but Text.
	Member SegmentID
}
