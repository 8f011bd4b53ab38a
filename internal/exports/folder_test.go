package exports_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"kith/internal/exports"
	"kith/proto"
)

const members = 2*proto.ExportPartRows + 1000 // of lane 0: three files

func formats() []proto.ExportFormat {
	return []proto.ExportFormat{proto.FormatRoaring, proto.FormatParquet, proto.FormatArrow, proto.FormatCSV, proto.FormatNDJSON}
}

// Every format holds the same members under the same names.
func TestFormatsAgree(t *testing.T) {
	sets := []*roaring.Bitmap{someSet(1, members), roaring.New(), someSet(2, 500)}
	for _, f := range formats() {
		t.Run(string(f), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "export")
			m := received(t, dir, written(t, audience(f, nil, sets...), nil, nil), false)
			if m.Count != members+500 || !m.Complete {
				t.Fatalf("%d members", m.Count)
			}
			checkSets(t, dir, sets)
			rows := rowsIn(t, dir, &m)
			at := 0
			for lane, set := range sets {
				for it := set.Iterator(); it.HasNext(); at++ {
					o := it.Next()
					id := nameOf(proto.LaneID(lane), o)
					want := exports.Row{Lane: int32(lane), Ordinal: int64(o), Identity: string(id), Kind: id.Kind()}
					if at >= len(rows) || rows[at] != want {
						t.Fatalf("row %d of %d is not %v", at, len(rows), want)
					}
				}
			}
			if at != len(rows) {
				t.Errorf("%d rows, want %d", len(rows), at)
			}
		})
	}
}

// checkSets holds the sets of a folder against what they should be.
func checkSets(t *testing.T, dir string, sets []*roaring.Bitmap) {
	t.Helper()
	all := roaring64.New()
	for lane, want := range sets {
		if got := setIn(t, dir, proto.SetName(proto.ContentSet, proto.LaneID(lane))); !got.Equals(want) {
			t.Errorf("the set of lane %d is another", lane)
		}
		for it := want.Iterator(); it.HasNext(); {
			all.Add(uint64(lane)<<32 | uint64(it.Next()))
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, proto.Sets64Name))
	if err != nil {
		t.Fatal(err)
	}
	got := roaring64.New()
	if n, err := got.ReadFrom(bytes.NewReader(b)); err != nil || n != int64(len(b)) || !got.Equals(all) {
		t.Errorf("the 64-bit set: %v, %d bytes of %d, %d members", err, n, len(b), got.GetCardinality())
	}
}

func setIn(t *testing.T, dir, name string) *roaring.Bitmap {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	set, err := exports.ReadSet(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return set
}

// rowsIn reads the table of a folder with other readers than its writers.
func rowsIn(t *testing.T, dir string, m *proto.ExportManifest) (rows []exports.Row) {
	t.Helper()
	for _, file := range m.Files {
		if file.Content != m.Table() || file.Format == "roaring32" {
			continue
		}
		part := partIn(t, filepath.Join(dir, file.Name), file.Format)
		if uint64(len(part)) != file.Rows {
			t.Errorf("%s has %d rows, the manifest says %d", file.Name, len(part), file.Rows)
		}
		rows = append(rows, part...)
	}
	return rows
}

func partIn(t *testing.T, path, format string) (rows []exports.Row) {
	t.Helper()
	var err error
	switch format {
	case "parquet":
		rows, err = parquet.ReadFile[exports.Row](path)
	case "arrow":
		rows, err = readArrow(path)
	case "csv":
		rows, err = readCSV(path)
	default:
		rows, err = readNDJSON(path)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return rows
}

func readCSV(path string) (rows []exports.Row, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := csv.NewReader(f).ReadAll()
	for i, x := range list {
		if i == 0 {
			continue
		}
		r := exports.Row{Identity: x[2], Kind: x[3]}
		if err := json.Unmarshal([]byte("["+x[0]+","+x[1]+"]"), &[]any{&r.Lane, &r.Ordinal}); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, err
}

func readArrow(path string) (rows []exports.Row, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := ipc.NewFileReader(f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for i := range r.NumRecords() {
		b, err := r.RecordBatch(i)
		if err != nil {
			return nil, err
		}
		for k := range int(b.NumRows()) {
			rows = append(rows, exports.Row{
				Lane: b.Column(0).(*array.Int32).Value(k), Ordinal: b.Column(1).(*array.Int64).Value(k),
				Identity: strings.Clone(b.Column(2).(*array.String).Value(k)), Kind: strings.Clone(b.Column(3).(*array.String).Value(k)),
			})
		}
	}
	return rows, nil
}

func readNDJSON(path string) (rows []exports.Row, err error) {
	b, err := os.ReadFile(path)
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan() && err == nil; {
		var r exports.Row
		err = json.Unmarshal(lines.Bytes(), &r)
		rows = append(rows, r)
	}
	return rows, err
}

// A delta says who came by name and who went by number; with the earlier
// export it gives the new one.
func TestDelta(t *testing.T) {
	before, now := roaring.BitmapOf(1, 2, 3, 4, 5, 70_000), roaring.BitmapOf(3, 4, 5, 6, 80_000)
	known := roaring.BitmapOf(1, 9) // 2 and 70,000 are gone
	for _, f := range formats() {
		first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
		received(t, first, written(t, audience(f, nil, before), nil, nil), false)
		since, err := exports.ReadSince(filepath.Join(first, exports.ManifestName), proto.UnitIdentities)
		if err != nil {
			t.Fatal(err)
		}
		m := received(t, second, written(t, audience(f, known, now), nil, since), false)
		if s := m.Since; s.Entered != 2 || s.Left != 3 || s.Recalled != 2 || s.Position != "0:7" {
			t.Errorf("%s: %+v", f, s)
		}
		for c, want := range map[proto.ExportContent]*roaring.Bitmap{
			proto.ContentSet: now, proto.ContentEntered: roaring.BitmapOf(6, 80_000), proto.ContentLeft: roaring.BitmapOf(1, 2, 70_000), proto.ContentRecall: roaring.BitmapOf(2, 70_000),
		} {
			if got := setIn(t, second, proto.SetName(c, 0)); !got.Equals(want) {
				t.Errorf("%s: %s are %v, want %v", f, c, got, want)
			}
		}
		rows := rowsIn(t, second, &m)
		if len(rows) != 2 || rows[0].Ordinal != 6 || rows[1].Identity != string(nameOf(0, 80_000)) {
			t.Errorf("%s: entered are %v", f, rows)
		}
		if _, err := exports.ReadSince(second, proto.UnitIdentities); err != nil {
			t.Errorf("%s: a delta to a delta: %v", f, err)
		}
	}
}

// A delta that broke off is begun anew: nobody is sent to --resume, which it does not
// take.
func TestDeltaThatBrokeOff(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	received(t, first, written(t, audience(proto.FormatCSV, nil, roaring.BitmapOf(1, 2, 3)), nil, nil), false)
	since, err := exports.ReadSince(first, proto.UnitIdentities)
	if err != nil {
		t.Fatal(err)
	}
	stream := written(t, audience(proto.FormatCSV, roaring.BitmapOf(1, 2), roaring.BitmapOf(1)), nil, since)
	f, err := exports.OpenFolder(second, false)
	if err != nil {
		t.Fatal(err)
	}
	anew := func(what string, err error, code proto.Code) {
		t.Helper()
		if proto.CodeOf(err) != code || !strings.Contains(err.Error(), "another folder") || strings.Contains(err.Error(), "--resume") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = f.Receive(bytes.NewReader(stream[:len(stream)-4000]))
	anew("broken off", err, proto.CodeUnavailable)
	for _, resume := range []bool{false, true} {
		_, err := exports.OpenFolder(second, resume)
		anew(fmt.Sprint("opened again, resume ", resume), err, proto.CodeConflict)
	}
}

// An audience that is under the floor now is empty, and still recalls.
func TestDeltaOfAConcealedAudience(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	received(t, first, written(t, audience(proto.FormatCSV, nil, roaring.BitmapOf(1, 2, 3)), nil, nil), false)
	since, err := exports.ReadSince(first, proto.UnitIdentities)
	if err != nil {
		t.Fatal(err)
	}
	a := audience(proto.FormatCSV, roaring.BitmapOf(1, 2), roaring.BitmapOf(1))
	a.Conceal(50)
	m := received(t, second, written(t, a, nil, since), false)
	if m.Count != 0 || m.Below != 50 || m.Since.Left != 3 || m.Since.Recalled != 1 || len(rowsIn(t, second, &m)) != 0 {
		t.Errorf("%+v, %+v", m, m.Since)
	}
}

// Wherever the stream breaks off the folder is not finished, and a resumed
// export is as if nothing had been.
func TestResume(t *testing.T) {
	sets := []*roaring.Bitmap{someSet(1, members), someSet(2, 500)}
	whole := filepath.Join(t.TempDir(), "whole")
	stream := written(t, audience(proto.FormatCSV, nil, sets...), nil, nil)
	want := received(t, whole, stream, false)
	cuts := []int{len(stream) - 1500, 0, 300, 3000, len(stream) / 3, len(stream) / 2, len(stream) - 5000}
	if testing.Short() {
		cuts = cuts[:2]
	}
	for _, at := range cuts {
		dir := filepath.Join(t.TempDir(), "broken")
		f, err := exports.OpenFolder(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Receive(bytes.NewReader(stream[:at])); proto.CodeOf(err) != proto.CodeUnavailable {
			t.Fatalf("cut at %d of %d: %v", at, len(stream), err)
		}
		if _, err := exports.ReadSince(dir, proto.UnitIdentities); err == nil {
			t.Fatalf("cut at %d: it looks finished", at)
		}
		f, err = exports.OpenFolder(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		a := audience(proto.FormatCSV, nil, sets...)
		have := f.Have()
		rest := written(t, a, have, nil)
		m, err := f.Receive(bytes.NewReader(rest))
		if err != nil {
			t.Fatalf("cut at %d, resumed: %v", at, err)
		}
		if at > len(stream)/2 && (len(have) == 0 || a.Names.(*names).read.Load() >= members) {
			t.Errorf("cut at %d: %v is had, %d are named again", at, have, a.Names.(*names).read.Load())
		}
		sameFolders(t, whole, dir)
		if m.Count != want.Count || len(m.Files) != len(want.Files) {
			t.Errorf("cut at %d: %d files", at, len(m.Files))
		}
	}
}

// sameFolders compares all files but the manifests, whose order may differ.
func sameFolders(t *testing.T, want, got string) {
	t.Helper()
	read := func(dir string) map[string]string {
		files := map[string]string{}
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if files[e.Name()] = string(b); e.Name() == exports.ManifestName {
				files[e.Name()] = ""
			}
		}
		return files
	}
	a, b := read(want), read(got)
	for name := range a {
		if a[name] != b[name] {
			t.Errorf("%s differs", name)
		}
	}
	if len(a) != len(b) {
		t.Errorf("%d files, want %d", len(b), len(a))
	}
}

// A lane whose set has changed is begun anew; the others' files stay.
func TestResumeAfterAChange(t *testing.T) {
	sets := []*roaring.Bitmap{someSet(1, members), someSet(2, 500)}
	dir := filepath.Join(t.TempDir(), "broken")
	stream := written(t, audience(proto.FormatNDJSON, nil, sets...), nil, nil)
	f, err := exports.OpenFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Receive(bytes.NewReader(stream[:len(stream)-4000])); err == nil {
		t.Fatal("it is finished")
	}
	sets[0].Remove(sets[0].Maximum())
	sets[0].Remove(sets[0].Minimum())
	f, err = exports.OpenFolder(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	a := audience(proto.FormatNDJSON, nil, sets...)
	m, err := f.Receive(bytes.NewReader(written(t, a, f.Have(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if n := a.Names.(*names).read.Load(); n != members-2 && n != members-2+500 {
		t.Errorf("%d are named", n)
	}
	whole := filepath.Join(t.TempDir(), "whole")
	received(t, whole, written(t, audience(proto.FormatNDJSON, nil, sets...), nil, nil), false)
	sameFolders(t, whole, dir)
	checkSets(t, dir, sets)
	if got := len(rowsIn(t, dir, &m)); got != members-2+500 {
		t.Errorf("%d rows", got)
	}
}

// A stream whose source fails has no manifest.
func TestFailureMidway(t *testing.T) {
	for _, fail := range []int64{1, proto.ExportPartRows + 5, members - 1} {
		a := audience(proto.FormatCSV, nil, someSet(1, members))
		a.Names.(*names).fail = fail
		var b bytes.Buffer
		if err := exports.Write(context.Background(), &b, a, nil, nil); proto.CodeOf(err) != proto.CodeUnavailable {
			t.Fatalf("failing at %d: %v", fail, err)
		}
		if bytes.Contains(b.Bytes(), []byte(exports.ManifestName)) {
			t.Errorf("failing at %d: there is a manifest", fail)
		}
	}
}

// A stream is ended by its context.
func TestCancel(t *testing.T) {
	const parts = 16
	ctx, cancel := context.WithCancel(context.Background())
	all := roaring.New()
	all.AddRange(0, parts*proto.ExportPartRows)
	a := audience(proto.FormatCSV, nil, all)
	w := writerFunc(func(p []byte) (int, error) {
		if a.Names.(*names).read.Load() > 0 {
			cancel()
		}
		return len(p), nil
	})
	if err := exports.Write(ctx, w, a, nil, nil); err == nil {
		t.Error("it went on to the end")
	}
	if n := a.Names.(*names).read.Load(); n > parts/2*proto.ExportPartRows {
		t.Errorf("%d were named after that", n)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// What is not of an export stays, in the folder of another and in that of an export
// that is resumed.
func TestOthersFilesStay(t *testing.T) {
	put := func(dir string, names ...string) {
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(dir string, names ...string) {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Errorf("%s is gone", name)
			}
		}
	}
	for _, names := range [][]string{{"x", ".partial-1"}, {".partial-1"}, {"x", ".partial-export-1"}} {
		dir := t.TempDir()
		put(dir, names...)
		for _, resume := range []bool{false, true} {
			if _, err := exports.OpenFolder(dir, resume); proto.CodeOf(err) != proto.CodeConflict {
				t.Errorf("%v, resume %t: %v", names, resume, err)
			}
		}
		check(dir, names...)
	}

	dir := filepath.Join(t.TempDir(), "broken")
	stream := written(t, audience(proto.FormatCSV, nil, someSet(1, members)), nil, nil)
	f, err := exports.OpenFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Receive(bytes.NewReader(stream[:len(stream)-4000])); err == nil {
		t.Fatal("it is finished")
	}
	mine := []string{"notes.txt", "audience-of-mine.csv", "lane-1.txt", ".partial-1"}
	put(dir, mine...)
	put(dir, ".partial-export-1")
	if _, err := exports.OpenFolder(dir, false); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("not resumed: %v", err)
	}
	check(dir, append(mine, ".partial-export-1")...)
	received(t, dir, written(t, audience(proto.FormatCSV, nil, someSet(1, members-1)), nil, nil), true)
	check(dir, mine...)
	if _, err := os.Stat(filepath.Join(dir, ".partial-export-1")); err == nil {
		t.Error("what the export left is there still")
	}
}

// Every name that an export gives is known as one.
func TestLayoutNames(t *testing.T) {
	for _, name := range []string{
		proto.Sets64Name, proto.SetName(proto.ContentSet, 3), proto.SetName(proto.ContentMembers, 12), proto.SetName(proto.ContentRecall, 0),
		proto.PartName(proto.ContentAudience, 0, 0, proto.FormatParquet), proto.PartName(proto.ContentDictionary, 63, 123456, proto.FormatCSV), proto.PartName(proto.ContentLeft, 1, 2, proto.FormatNDJSON),
		proto.PartName(proto.ContentEntered, 1, 2, proto.FormatArrow),
	} {
		if !exports.LayoutName.MatchString(name) {
			t.Errorf("%s is not known", name)
		}
	}
}

// A folder that holds anything else is left alone.
func TestFolderIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, resume := range []bool{false, true} {
		if _, err := exports.OpenFolder(dir, resume); proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("another's folder, resume %v: %v", resume, err)
		}
	}
	done := filepath.Join(t.TempDir(), "done")
	received(t, done, written(t, audience(proto.FormatCSV, nil, someSet(1, 5)), nil, nil), false)
	if _, err := exports.OpenFolder(done, true); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("a finished export: %v", err)
	}
}

// What a stream holds beside an export's files never reaches the disk.
func TestHostileStream(t *testing.T) {
	for _, name := range []string{"../outside", "/outside", "sub/outside", ".hidden", "begin.json", "other.json"} {
		stream := written(t, audience(proto.FormatCSV, nil, someSet(1, 5)), nil, nil)
		stream = renamed(t, stream, "lane-0.roaring", name)
		parent := t.TempDir()
		f, err := exports.OpenFolder(filepath.Join(parent, "in"), false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Receive(bytes.NewReader(stream)); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
		left, _ := filepath.Glob(filepath.Join(parent, "*"))
		if diff := cmp.Diff([]string{filepath.Join(parent, "in")}, left); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A byte that changed on the way is noticed.
func TestDamagedStream(t *testing.T) {
	stream := written(t, audience(proto.FormatCSV, nil, someSet(1, 500)), nil, nil)
	i := bytes.Index(stream, []byte("browser:0"))
	stream[i+8] = '1'
	f, err := exports.OpenFolder(filepath.Join(t.TempDir(), "in"), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Receive(bytes.NewReader(stream)); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Error(err)
	}
}
