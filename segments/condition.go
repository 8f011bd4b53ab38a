package segments

import (
	"unicode/utf8"

	"kith/proto"
)

// Condition is a checked condition on one event, such as a rule's aggregates
// take. It does not change, and may be shared.
type Condition struct {
	pred *pred
	text string
}

// ParseCondition reads a condition on one event. CodeRule with a position if it
// is none.
func ParseCondition(text string) (*Condition, error) {
	if len(text) > RuleBytesMax || !utf8.ValidString(text) {
		return nil, at(proto.Errorf(proto.CodeRule, "the condition is not valid UTF-8, or over %d bytes", RuleBytesMax), 1, 1)
	}
	tree, err := parseCEL(text)
	if err != nil {
		return nil, err
	}
	l := lowering{info: tree.SourceInfo(), text: []rune(text)}
	p, err := l.predicate(tree.Expr(), 1)
	if err != nil {
		return nil, err
	}
	s := sealer{preds: map[string]*predicate{}}
	if err := s.pred(p, 1); err != nil {
		return nil, at(err, 1, 1)
	}
	if n := p.patterns(); n > PatternStepsMax {
		return nil, at(proto.Errorf(proto.CodeRule, "the patterns of the condition have %d steps in all, at most %d are allowed: leave some out", n, PatternStepsMax), 1, 1)
	}
	return &Condition{pred: p, text: p.String()}, nil
}

// String is the canonical text.
func (c *Condition) String() string { return c.text }

// Matches reports whether the event meets the condition.
func (c *Condition) Matches(e *proto.EventBody) bool { return plainMatches(c.pred, e) }
