package proto_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/proto"
)

func goldenExport() proto.ExportManifest {
	lane, other := proto.LaneID(0), proto.LaneID(3)
	sha := strings.Repeat("0a", 32)
	file := func(name string, c proto.ExportContent, format string, l *proto.LaneID, rows uint64) proto.ExportFile {
		return proto.ExportFile{Name: name, Content: c, Format: format, Lane: l, Rows: rows, Bytes: 100, SHA256: sha}
	}
	return proto.ExportManifest{
		Version: proto.ExportVersion, Kith: "v1", Client: "acme", Expr: "auto & !owners", Unit: "identities", Format: proto.FormatCSV, Dictionary: proto.FormatNone,
		Time: goldenTime.Time(), Position: "0:17,3:9", Exact: true, Partitions: proto.Answered{Answered: 64, Of: 64},
		Segments: []proto.ExportSegment{{ID: "auto", Version: 12, Scope: "user", When: `count(true, "30d") > 3`}, {ID: "owners", Version: 7, Scope: "identity", When: "true"}},
		Lanes:    []proto.ExportLane{{Lane: 0, Log: "d1", Offset: 17, Count: 2, Set: sha}, {Lane: 3, Log: "d2", Offset: 9, Count: 1, Set: sha}},
		Count:    3, Complete: true,
		Since: &proto.ExportChange{Time: goldenTime.Time().Add(-24 * time.Hour), Position: "0:15,3:8", Entered: 1, Left: 2, Recalled: 1},
		Files: []proto.ExportFile{
			file("lane-0.roaring", proto.ContentSet, "roaring32", &lane, 2), file("lane-3.roaring", proto.ContentSet, "roaring32", &other, 1),
			file(proto.Sets64Name, proto.ContentSets64, "roaring64", nil, 3),
			file("entered-0.roaring", proto.ContentEntered, "roaring32", &lane, 1), file("left-0.roaring", proto.ContentLeft, "roaring32", &lane, 2),
			file("recall-3.roaring", proto.ContentRecall, "roaring32", &other, 1), file("entered-0-00000.csv", proto.ContentEntered, "csv", &lane, 1),
		},
	}
}

func TestGoldenExport(t *testing.T) {
	m := goldenExport()
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "export_manifest", b)
	got, err := proto.ReadExportManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

// What does not hold together is refused, whatever it is.
func TestExportManifestValidate(t *testing.T) {
	for name, spoil := range map[string]func(*proto.ExportManifest){
		"version":        func(m *proto.ExportManifest) { m.Version = 2 },
		"client":         func(m *proto.ExportManifest) { m.Client = "a.b" },
		"expression":     func(m *proto.ExportManifest) { m.Expr = "\xff" },
		"unit":           func(m *proto.ExportManifest) { m.Unit = "devices" },
		"no identities":  func(m *proto.ExportManifest) { m.Unit = "users" },
		"of users":       func(m *proto.ExportManifest) { m.Identities = 3 },
		"format":         func(m *proto.ExportManifest) { m.Format = "none" },
		"dictionary":     func(m *proto.ExportManifest) { m.Dictionary = "roaring" },
		"time":           func(m *proto.ExportManifest) { m.Time = time.Time{} },
		"partitions":     func(m *proto.ExportManifest) { m.Partitions.Answered = 65 },
		"position":       func(m *proto.ExportManifest) { m.Position = "0:18,3:9" },
		"count":          func(m *proto.ExportManifest) { m.Count++ },
		"lanes":          func(m *proto.ExportManifest) { m.Lanes[1].Lane = 0 },
		"kept":           func(m *proto.ExportManifest) { m.Lanes[0].Kept = 2 },
		"set":            func(m *proto.ExportManifest) { m.Lanes[0].Set = "x" },
		"recalled":       func(m *proto.ExportManifest) { m.Since.Recalled = 3 },
		"a path":         func(m *proto.ExportManifest) { m.Files[0].Name = "../lane-0.roaring" },
		"a hidden file":  func(m *proto.ExportManifest) { m.Files[0].Name = ".profile" },
		"the manifest":   func(m *proto.ExportManifest) { m.Files[0].Name = "manifest.json" },
		"twice":          func(m *proto.ExportManifest) { m.Files[0].Name = m.Files[1].Name },
		"content":        func(m *proto.ExportManifest) { m.Files[0].Content = "x" },
		"lane of a file": func(m *proto.ExportManifest) { x := proto.LaneID(9); m.Files[0].Lane = &x },
		"size":           func(m *proto.ExportManifest) { m.Files[0].Bytes = -1 },
		"rows":           func(m *proto.ExportManifest) { m.Files[6].Rows = 2 },
		"members":        func(m *proto.ExportManifest) { m.Files[0].Rows = 1 },
		"unfinished":     func(m *proto.ExportManifest) { m.Complete = false },
		"segment":        func(m *proto.ExportManifest) { m.Segments[0].ID = "a b" },
	} {
		m := goldenExport()
		spoil(&m)
		if err := m.Validate(); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// goldenUsers is a whole export by users with members.
func goldenUsers() proto.ExportManifest {
	m := goldenExport()
	lane := proto.LaneID(3)
	m.Unit, m.Members, m.Identities, m.Since, m.Format = proto.UnitUsers, true, 5, nil, proto.FormatArrow
	set := m.Files[1]
	set.Name, set.Content, set.Rows = "members-3.roaring", proto.ContentMembers, 5
	table := m.Files[6]
	table.Name, table.Content, table.Format, table.Lane, table.Rows = "audience-3-00000.arrow", proto.ContentAudience, "arrow", &lane, 3
	m.Files = append(m.Files[:3], set, table)
	return m
}

// An export by users holds the identities that its users have, in sets of their
// own.
func TestUsersManifestValidate(t *testing.T) {
	m := goldenUsers()
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "export_manifest_users", b)
	for name, spoil := range map[string]func(*proto.ExportManifest){
		"members of identities": func(m *proto.ExportManifest) { m.Unit = proto.UnitIdentities },
		"more users":            func(m *proto.ExportManifest) { m.Identities = 2 },
		"members missing":       func(m *proto.ExportManifest) { m.Files[3].Rows = 4 },
		"a delta":               func(m *proto.ExportManifest) { m.Since = goldenExport().Since },
		"parts":                 func(m *proto.ExportManifest) { m.Lanes[0].Kept = 2 },
	} {
		m := goldenUsers()
		spoil(&m)
		if err := m.Validate(); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzReadExportManifest reads bytes as a manifest. What is taken holds
// together, names no file outside its folder, and reads again as the same.
func FuzzReadExportManifest(f *testing.F) {
	m := goldenExport()
	b, _ := m.Append(nil)
	f.Add(b)
	m.Complete, m.Files = false, nil
	b, _ = m.Append(nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := proto.ReadExportManifest(b)
		if err != nil {
			if c := proto.CodeOf(err); c != proto.CodeCorrupt && c != proto.CodeTooLarge {
				t.Fatalf("code of %v", err)
			}
			return
		}
		for _, x := range m.Files {
			if strings.ContainsAny(x.Name, `/\`) || strings.HasPrefix(x.Name, ".") {
				t.Fatalf("a file is named %q", x.Name)
			}
		}
		one, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := proto.ReadExportManifest(one)
		if err != nil {
			t.Fatalf("what was taken is refused when written again: %v", err)
		}
		if two, _ := again.Append(nil); !bytes.Equal(one, two) {
			t.Fatalf("reads again as %s, was %s", two, one)
		}
	})
}
