package segments

import (
	"regexp"
	"regexp/syntax"

	"kith/proto"
)

// patternRunMax is above PatternStepsMax, so that a library which reads a
// pattern another way does not change what a rule means that was saved.
const patternRunMax = 2 * PatternStepsMax

// patternSteps is how many steps the matcher has of a pattern, and at most a few
// more: what is repeated is written out. At each byte of a text all of them may
// be under way.
func patternSteps(re *syntax.Regexp) int {
	sum := 0
	for _, sub := range re.Sub {
		sum += patternSteps(sub)
	}
	switch re.Op {
	case syntax.OpLiteral:
		return max(1, len(re.Rune))
	case syntax.OpConcat:
		return max(1, sum)
	case syntax.OpAlternate:
		return sum + len(re.Sub)
	case syntax.OpPlus, syntax.OpQuest:
		return sum + 1
	case syntax.OpCapture, syntax.OpStar:
		return sum + 2
	case syntax.OpRepeat:
		if re.Max < 0 {
			return max(1, re.Min)*sum + 2
		}
		return max(1, re.Max*sum+re.Max-re.Min)
	}
	return 1
}

// checkPattern refuses a pattern that does not parse or takes too many steps.
func checkPattern(text string) error {
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return proto.Errorf(proto.CodeRule, "the pattern does not parse as RE2: %v", err)
	}
	if n := patternSteps(re); n > PatternStepsMax {
		return proto.Errorf(proto.CodeRule, "the pattern has %d steps when its repeats are written out, at most %d are allowed: lower the numbers in braces", n, PatternStepsMax)
	}
	return nil
}

// sealPattern compiles the pattern of a leaf. One of many steps, which earlier
// builds let be saved, would hold up everybody: it is not run and matches nothing.
func (p *pred) sealPattern() error {
	text := p.lits[0].Text
	if len(text) > RegexBytesMax {
		return proto.Errorf(proto.CodeRule, "the pattern has %d bytes: at most %d are allowed", len(text), RegexBytesMax)
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err == nil {
		if p.steps = patternSteps(tree); p.steps > patternRunMax {
			p.steps = 0
			return nil
		}
		p.re, err = regexp.Compile(text)
	}
	if err != nil {
		return proto.Errorf(proto.CodeRule, "the pattern %q does not parse as RE2: %v", clip(text), err)
	}
	return nil
}

// matchesText reports whether a leaf's pattern is run and matches.
func (p *pred) matchesText(text string) bool { return p.re != nil && p.re.MatchString(text) }

// patterns is how many steps the patterns of p, which may be nil, have in all.
func (p *pred) patterns() (sum int) {
	p.walk(func(leaf *pred) { sum += leaf.steps })
	return sum
}

// Idle lists the patterns of the rule that are not run and match nothing.
func (r *Rule) Idle() (list []string) {
	r.root.walk(func(n *node) {
		for _, p := range []*pred{n.pred, n.then} {
			p.walk(func(leaf *pred) {
				if leaf.op == predMatches && leaf.re == nil {
					list = append(list, leaf.lits[0].Text)
				}
			})
		}
	})
	return list
}
