package engine

import (
	"cmp"
	"slices"

	"kith/proto"
	"kith/segments"
)

// versionsMax bounds the versions of one segment whose rules are kept. Of older
// ones no more than keys and times are.
const versionsMax = 32

// version is what a segment's name stood for, for a time.
type version struct {
	key      proto.SegmentKey
	from, to proto.Millis // control records' times; to is 0 while it answers
	scope    string
	when     string
	rule     *segments.Rule // nil: no longer kept
}

// begin notes that a definition answers from t on.
func (r *registry) begin(c proto.ClientID, s *proto.SegmentSpec, t proto.Millis) error {
	name := defined{c, s.ID}
	r.finish(name, t)
	d, ok := r.rules.programs[c].ByKey(s.Version)
	if !ok {
		return proto.Errorf(proto.CodeInternal, "segment %q has no version %d", s.ID, s.Version)
	}
	if n := len(r.ever[name]); n > 0 { // the clock that stamps records may have been set back
		t = max(t, r.ever[name][n-1].to)
	}
	list := append(r.ever[name], version{key: s.Version, from: t, scope: s.Scope, when: s.When, rule: d.Rule})
	if old := len(list) - versionsMax - 1; old >= 0 {
		list[old].scope, list[old].when, list[old].rule = "", "", nil
	}
	r.ever[name] = list
	return nil
}

// finish notes that what answered does so no more.
func (r *registry) finish(name defined, t proto.Millis) {
	if n := len(r.ever[name]); n > 0 && r.ever[name][n-1].to == 0 {
		r.ever[name][n-1].to = max(t, r.ever[name][n-1].from)
	}
}

// versionsOf are all versions of a segment that ever answered, oldest first.
func (r *registry) versionsOf(c proto.ClientID, id proto.SegmentID) []version {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ever[defined{c, id}])
}

// versionsEver are those of all segments that a client ever had.
func (r *registry) versionsEver(c proto.ClientID) map[proto.SegmentID][]version {
	r.mu.Lock()
	defer r.mu.Unlock()
	ever := map[proto.SegmentID][]version{}
	for d, list := range r.ever {
		if d.client == c {
			ever[d.id] = slices.Clone(list)
		}
	}
	return ever
}

// versionAt is the version of the list that answered at t. Without one it says
// why: the segment was not defined then, or only how long ago it was is known.
func versionAt(list []version, t proto.Millis) (v version, kept, is bool) {
	for _, v := range slices.Backward(list) {
		if v.from <= t {
			is = v.to == 0 || t < v.to
			return v, is && v.rule != nil, is
		}
	}
	return version{}, false, false
}

// namedVersion is a version with the segment that it is of.
type namedVersion struct {
	id proto.SegmentID
	version
}

// allVersions are the versions of a client's segments whose rules are kept, by
// segment, oldest first.
func (r *registry) allVersions(c proto.ClientID) (list []namedVersion) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d, versions := range r.ever {
		for _, v := range versions {
			if d.client == c && v.rule != nil {
				list = append(list, namedVersion{d.id, v})
			}
		}
	}
	slices.SortFunc(list, func(a, b namedVersion) int { return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.key, b.key)) })
	return list
}
