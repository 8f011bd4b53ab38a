package exports_test

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"kith/internal/exports"
	"kith/proto"
)

// people makes an audience by users of two lanes: every third row is a user of
// several, of both lanes.
func people(f proto.ExportFormat, rows int) (a *exports.Audience, want []exports.UserRow) {
	sets := []*roaring.Bitmap{roaring.New(), roaring.New()}
	sets[0].AddRange(0, uint64(rows))
	sets[1].AddRange(5, 15)
	a = audience(f, nil, sets...)
	m := &a.Manifest
	m.Unit, m.Members = proto.UnitUsers, true
	for i := range a.Lanes {
		a.Lanes[i].Members = a.Lanes[i].Set.Clone()
	}
	belongs := func(row, member exports.Number64) {
		a.Belongs = append(a.Belongs, exports.Belongs{Row: row, Member: member})
		a.Lanes[member.Lane()].Members.Add(member.Ordinal())
	}
	for lane, set := range sets {
		for _, o := range set.ToArray() {
			row := exports.NumberOf(proto.LaneID(lane), o)
			list := []exports.Number64{row}
			if o%3 == 0 {
				list = append(list, exports.NumberOf(0, 1<<20+2*o+uint32(lane)), exports.NumberOf(1, 1<<20+2*o+uint32(lane)))
				slices.Sort(list)
				for _, x := range list {
					belongs(row, x)
				}
			}
			id := nameOf(proto.LaneID(lane), o)
			r := exports.UserRow{Lane: int32(lane), Ordinal: int64(o), Identity: string(id), Kind: id.Kind()}
			for _, x := range list {
				r.Members = append(r.Members, string(nameOf(x.Lane(), x.Ordinal())))
				r.MemberIDs = append(r.MemberIDs, int64(x))
			}
			m.Identities += uint64(len(list))
			want = append(want, r)
		}
	}
	return a, want
}

// Every format names the same members of the same users, and the sets beside
// the tables hold them.
func TestUsersInAllFormats(t *testing.T) {
	const rows = proto.ExportUserRows + 100 // of lane 0: two files
	for _, f := range []proto.ExportFormat{proto.FormatParquet, proto.FormatArrow, proto.FormatCSV, proto.FormatNDJSON} {
		a, want := people(f, rows)
		dir := filepath.Join(t.TempDir(), "export")
		m := received(t, dir, written(t, a, nil, nil), false)
		var got []exports.UserRow
		for _, file := range m.Files {
			if file.Content == proto.ContentAudience {
				part, err := usersIn(filepath.Join(dir, file.Name), f)
				if err != nil || uint64(len(part)) != file.Rows {
					t.Fatalf("%s: %d rows of %d, %v", file.Name, len(part), file.Rows, err)
				}
				got = append(got, part...)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s (-want +got):\n%.2000s", f, diff)
		}
		for lane := range a.Lanes {
			if set := setIn(t, dir, proto.SetName(proto.ContentMembers, proto.LaneID(lane))); !set.Equals(a.Lanes[lane].Members) {
				t.Errorf("%s: the members of lane %d are others", f, lane)
			}
		}
	}
}

func usersIn(path string, f proto.ExportFormat) (rows []exports.UserRow, err error) {
	switch f {
	case proto.FormatParquet:
		return parquet.ReadFile[exports.UserRow](path)
	case proto.FormatArrow:
		return usersInArrow(path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if f == proto.FormatCSV {
		return usersInCSV(string(b))
	}
	for line := range strings.Lines(string(b)) {
		var r exports.UserRow
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func usersInCSV(text string) (rows []exports.UserRow, err error) {
	list, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, err
	}
	for _, x := range list[1:] {
		r := exports.UserRow{Identity: x[2], Kind: x[3], Members: strings.Split(x[4], " ")}
		ids := "[" + strings.ReplaceAll(x[5], " ", ",") + "]"
		if err := json.Unmarshal([]byte("["+x[0]+","+x[1]+","+ids+"]"), &[]any{&r.Lane, &r.Ordinal, &r.MemberIDs}); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func usersInArrow(path string) (rows []exports.UserRow, err error) {
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
	b, err := r.RecordBatch(0)
	if err != nil {
		return nil, err
	}
	members, ids := b.Column(4).(*array.List), b.Column(5).(*array.List)
	for k := range int(b.NumRows()) {
		row := exports.UserRow{
			Lane: b.Column(0).(*array.Int32).Value(k), Ordinal: b.Column(1).(*array.Int64).Value(k),
			Identity: strings.Clone(b.Column(2).(*array.String).Value(k)), Kind: strings.Clone(b.Column(3).(*array.String).Value(k)),
		}
		for from, to := members.ValueOffsets(k); from < to; from++ {
			row.Members = append(row.Members, strings.Clone(members.ListValues().(*array.String).Value(int(from))))
		}
		for from, to := ids.ValueOffsets(k); from < to; from++ {
			row.MemberIDs = append(row.MemberIDs, ids.ListValues().(*array.Int64).Value(int(from)))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// An export with members that broke off is begun anew: the set of users does
// not say whether their members are still the same.
func TestUsersAreNotResumed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "export")
	a, _ := people(proto.FormatCSV, proto.ExportUserRows+100)
	stream := written(t, a, nil, nil)
	f, err := exports.OpenFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Receive(strings.NewReader(string(stream[:len(stream)-3000]))); err == nil {
		t.Fatal("it is finished")
	}
	if f, err = exports.OpenFolder(dir, true); err != nil {
		t.Fatal(err)
	}
	have := f.Have()
	if len(have) == 0 {
		t.Fatal("nothing came")
	}
	a, _ = people(proto.FormatCSV, proto.ExportUserRows+100)
	a.Belongs = a.Belongs[3:] // the first user has none but itself now
	a.Manifest.Identities = a.Manifest.Count - uint64(len(a.Belongs))/3 + uint64(len(a.Belongs))
	a.Lanes[0].Members.Remove(1 << 20)
	a.Lanes[1].Members.Remove(1 << 20)
	if _, err := f.Receive(strings.NewReader(string(written(t, a, have, nil)))); err != nil {
		t.Fatal(err)
	}
	rows, err := usersIn(filepath.Join(dir, "audience-0-00000.csv"), proto.FormatCSV)
	if err != nil || len(rows[0].Members) != 1 {
		t.Errorf("the first user has the members %v, %v", rows[0].Members, err)
	}
}
