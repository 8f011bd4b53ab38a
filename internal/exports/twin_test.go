package exports_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/internal/exports"
	"kith/proto"
)

// names are members in memory: the number is in the name.
type names struct {
	read atomic.Int64 // names given
	fail int64        // breaks off after so many, if not 0
}

func nameOf(lane proto.LaneID, o uint32) proto.Identity {
	kind := [...]string{"browser", "account", "partner.acme"}[o%3]
	return proto.Identity(fmt.Sprintf(`%s:%d,"é%d`, kind, lane, o))
}

func (n *names) Name(lane proto.LaneID, ordinals []uint32, fn func(proto.Ordinal, []byte)) error {
	for _, o := range ordinals {
		if k := n.read.Add(1); n.fail > 0 && k > n.fail {
			return proto.Errorf(proto.CodeUnavailable, "the store is gone")
		}
		fn(proto.Ordinal(o), []byte(nameOf(lane, o)))
	}
	return nil
}

func (n *names) Close() {}

// audience makes one of sets, all of whose members and of known are known.
func audience(f proto.ExportFormat, known *roaring.Bitmap, sets ...*roaring.Bitmap) *exports.Audience {
	a := &exports.Audience{Names: &names{}, Manifest: proto.ExportManifest{
		Kith: "test", Client: "acme", Expr: "auto", Unit: "identities", Format: f, Dictionary: proto.FormatNone, Time: time.Unix(1_800_000_000, 0).UTC(),
		Exact: true, Partitions: proto.Answered{Answered: 64, Of: 64}, Segments: []proto.ExportSegment{{ID: "auto", Version: 3, Scope: "user", When: "true"}},
	}}
	if f == proto.FormatRoaring {
		a.Manifest.Dictionary = proto.FormatCSV
	}
	m, position := &a.Manifest, proto.Position{}
	for i, set := range sets {
		lane := proto.LaneID(i)
		position[lane] = 7
		m.Lanes = append(m.Lanes, proto.ExportLane{Lane: lane, Log: "log", Offset: 7, Count: set.GetCardinality()})
		m.Count += set.GetCardinality()
		l := exports.Lane{Set: set.Clone()}
		if known != nil {
			l.Known = roaring.Or(set, known)
		}
		a.Lanes = append(a.Lanes, l)
	}
	m.Position = position.String()
	return a
}

// someSet has n members, some of them close together.
func someSet(seed uint64, n int) *roaring.Bitmap {
	r := rand.New(rand.NewPCG(seed, 1))
	set := roaring.New()
	for at := uint32(0); set.GetCardinality() < uint64(n); {
		at += 1 + uint32(r.IntN(3))*uint32(r.IntN(1000))
		set.Add(at)
	}
	return set
}

// written is the stream of an audience.
func written(t *testing.T, a *exports.Audience, have []proto.ExportKept, since *proto.ExportSince) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := exports.Write(context.Background(), &b, a, have, since); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// received puts a stream into a folder.
func received(t *testing.T, dir string, stream []byte, resume bool) proto.ExportManifest {
	t.Helper()
	f, err := exports.OpenFolder(dir, resume)
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Receive(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	return m
}
