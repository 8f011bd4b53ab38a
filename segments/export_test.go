package segments

import (
	"regexp/syntax"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

// SetPredicateID forges the number of the rule's first condition, since nobody
// can wait for two texts whose 48-bit hashes collide.
func (r *Rule) SetPredicateID(id uint64) { r.preds[0].id = predID(id) }

// PredicateID is the number of the rule's first condition.
func (r *Rule) PredicateID() uint64 { return uint64(r.preds[0].id) }

// Judged is how many rules the last call of ev evaluated, and how many
// memberships its unions had room for.
func Judged(ev *Evaluator) (judged, room int) {
	for _, gen := range ev.marked {
		if gen == ev.gen {
			judged++
		}
	}
	return judged, cap(ev.union.memory.members)
}

// Tried is how many predicates the index has an event looked at with.
func Tried(p *Program, e *proto.EventBody) int {
	places := [][]filed{p.index.always}
	for a, text := range map[attrKind]string{attrName: e.Name, attrURL: e.URL, attrRef: e.Ref} {
		places = append(places, p.index.fields[a].values[text])
	}
	for _, prop := range e.Props {
		if a := p.index.props[prop.Key]; a != nil {
			places = append(places, a.any, a.values[prop.Value.String()])
		}
	}
	n := 0
	for _, list := range places {
		n += len(list)
	}
	return n
}

// Weighed is how far p's rules look ahead and how many steps their patterns have,
// as p counts it and counted anew.
func Weighed(p *Program) (counted, anew [2]int) {
	p.weigh()
	for _, s := range p.order {
		anew[0] += s.reach().ahead()
		anew[1] += s.def.Rule.traitPatterns
	}
	for _, t := range p.preds {
		anew[1] += t.patterns
	}
	return [2]int{p.ahead, p.patterns}, anew
}

// PatternSteps is how many steps a pattern that parses is taken for.
func PatternSteps(tree *syntax.Regexp) int { return patternSteps(tree) }

// Asked is how many times and days the rules of p ask for, those of series and how many
// steps their patterns have; Asking what that would be with d.
func Asked(p *Program) [3]int { return [3]int{p.kept, p.series, p.patterns} }

func Asking(p *Program, d Definition, beside bool) [3]int {
	kept, series := p.moreKept(d, beside)
	return [3]int{p.kept + kept, p.series + series, p.patterns + p.morePatterns(d, beside)}
}

// Chunks are the ordinals of b by its chunks, set in words and counted in others.
func Chunks(b *roaring.Bitmap, in []uint64) (words []uint64, both uint64, err error) {
	var reader chunkReader
	chunks, err := reader.read(nil, b)
	words = make([]uint64, len(in))
	for _, c := range chunks {
		c.addTo((*[chunkWords]uint64)(words[c.key*chunkWords:]))
		both += c.countIn((*[chunkWords]uint64)(in[c.key*chunkWords:]))
	}
	return words, both, err
}

// ReadChunks reads what a bitmap writes.
func ReadChunks(writes [][]byte) error {
	var x chunkReader
	for _, p := range writes {
		if _, err := x.Write(p); err != nil {
			return err
		}
	}
	return x.end()
}
