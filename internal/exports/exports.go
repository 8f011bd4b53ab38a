// Package exports is the form in which a whole audience leaves kith: a set of
// files, streamed as a tar and kept in a folder.
//
// It guarantees that nothing that broke off looks finished: the manifest, with
// size, rows and SHA-256 of every file, comes last, and in a folder it gets its
// name when all before it is synced. A stream needs memory for the sets, for two
// to four files of a table, however many the members are, and by users for who
// of several belongs to whom. Sets from outside are
// read with bounds on bytes and members and are validated; the 64-bit form is
// written and never read.
//
// It does not decide who is in an audience (segments), nor who may have it
// (gateway). docs/exports.md is the layout of what it writes; its version is
// proto.ExportVersion:
//
//	begin.json            the manifest as far as it is known at the beginning; goes when the export is complete
//	lane-L.roaring        the members of lane L
//	lanes.roaring64       those of all lanes
//	members-L.roaring     by users with members: all identities of the audience in lane L
//	audience-L-N.F        table of the members, part N, in format F; or
//	dictionary-L-N.F      the same beside a roaring export
//	entered-L.roaring, left-L.roaring, recall-L.roaring, entered-L-N.F, left-L-N.F, recall-L-N.F   of a delta
//	manifest.json
package exports

import (
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

// Names of the two files that are no part of what the manifest lists.
const (
	BeginName    = "begin.json"
	ManifestName = "manifest.json"
)

// Audience is an audience, each lane's part as of one commit. It belongs to
// one goroutine.
type Audience struct {
	Manifest proto.ExportManifest // without files
	Lanes    []Lane               // as the manifest has them
	Names    Names
	Belongs  []Belongs // by users with members: who belongs to which row, in order; rows of which nothing is said are alone
}

// Lane is a lane's part of an audience.
type Lane struct {
	Set     *roaring.Bitmap // the rows
	Members *roaring.Bitmap // by users with members: whom they name
	Known   *roaring.Bitmap // whom the client knows; nil unless a delta is wanted
}

// Names names the members of an audience that was opened: what one commit of
// each lane had. It holds the store's old state until it is closed.
type Names interface {
	// Name calls fn with each of ordinals, which ascend, and its identity, which
	// is fn's until it returns. An ordinal without identity is CodeCorrupt. It
	// ends soon after the context by which the audience was opened. Safe for
	// concurrent use.
	Name(lane proto.LaneID, ordinals []uint32, fn func(o proto.Ordinal, identity []byte)) error
	Close()
}

// Conceal makes a an audience of nobody, because it is under a floor.
func (a *Audience) Conceal(floor int) {
	a.Manifest.Below, a.Manifest.Count, a.Manifest.Identities = floor, 0, 0
	for i := range a.Lanes {
		a.Lanes[i].Set = roaring.New()
		a.Manifest.Lanes[i].Count = 0
	}
}

// change is how a lane's part differs from an earlier one.
type change struct{ entered, left, recall *roaring.Bitmap }

// changeOf compares a lane's part with an earlier one. Numbers are never given
// twice, so a number of which the client knows nothing any more stands for one
// who was cut out or forgotten.
func changeOf(l Lane, earlier *roaring.Bitmap) change {
	c := change{entered: roaring.AndNot(l.Set, earlier), left: roaring.AndNot(earlier, l.Set)}
	c.recall = roaring.AndNot(c.left, l.Known)
	return c
}

// earlierOf reads the sets of an earlier export, by lane.
func earlierOf(since *proto.ExportSince) (map[proto.LaneID]*roaring.Bitmap, error) {
	sets := map[proto.LaneID]*roaring.Bitmap{}
	var members uint64
	for _, l := range since.Lanes {
		if _, twice := sets[l.Lane]; twice || l.Lane >= proto.LanesMax {
			return nil, proto.Errorf(proto.CodeInvalid, "the earlier export names lane %s twice, or there is none: give its manifest as it was written", l.Lane)
		}
		set, err := ReadSet(l.Set)
		if err != nil {
			return nil, err
		}
		if members += set.GetCardinality(); members > SetMembersMax {
			return nil, tooMany()
		}
		sets[l.Lane] = set
	}
	return sets, nil
}

// kept is how many of the lane's table's parts the caller has already.
func kept(have []proto.ExportKept, l proto.ExportLane, parts int) int {
	i := slices.IndexFunc(have, func(k proto.ExportKept) bool { return k.Lane == l.Lane && k.Log == l.Log && k.Set == l.Set })
	if i < 0 {
		return 0
	}
	return max(0, min(have[i].Parts, parts))
}
