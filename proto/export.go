package proto

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ExportVersion is the version of an export's layout; docs/exports.md has it.
const ExportVersion = 1

// Bounds of what is read of an export.
const (
	ExportManifestBytesMax = 64 << 20
	ExportFilesMax         = 200_000
	ExportFileBytesMax     = 1 << 30
	// ExportPartRows are the rows of each file of a table but the last of its
	// lane; ExportUserRows if they are users with their members.
	ExportPartRows = 1 << 16
	ExportUserRows = 1 << 13
)

// Units of an export: what a row, and a number in a set, stands for.
const (
	UnitIdentities = "identities"
	UnitUsers      = "users"
)

// ExportFormat is how the members of an audience are written.
type ExportFormat string

// The formats. A dictionary is written in any but FormatRoaring.
const (
	FormatRoaring ExportFormat = "roaring"
	FormatParquet ExportFormat = "parquet"
	FormatCSV     ExportFormat = "csv"
	FormatNDJSON  ExportFormat = "ndjson"
	FormatArrow   ExportFormat = "arrow"
	FormatNone    ExportFormat = "none" // of a dictionary: there is none
)

// ParseExportFormat reads a format's name.
func ParseExportFormat(s string) (ExportFormat, error) {
	switch f := ExportFormat(s); f {
	case FormatRoaring, FormatParquet, FormatArrow, FormatCSV, FormatNDJSON:
		return f, nil
	}
	return "", Errorf(CodeInvalid, "format %q is unknown: use roaring, parquet, arrow, csv or ndjson", clip(s))
}

// ExportContent is what a file of an export holds.
type ExportContent string

// The contents. A set is a portable roaring bitmap of a lane's ordinals; a
// table has rows.
const (
	ContentSet        ExportContent = "set"        // who is in the audience
	ContentSets64     ExportContent = "sets64"     // the same of all lanes, 64 bits: lane<<32 | ordinal
	ContentMembers    ExportContent = "members"    // set, of users: their identities that are in the audience
	ContentAudience   ExportContent = "audience"   // table: who is in it
	ContentDictionary ExportContent = "dictionary" // table: names of the ordinals in the sets, of a delta those of the entered
	ContentEntered    ExportContent = "entered"    // set or table: who has come since
	ContentLeft       ExportContent = "left"       // set or table: who is not in it any more, by ordinal
	ContentRecall     ExportContent = "recall"     // set or table: those of left of whom nothing is held any more, by ordinal
)

var exportContents = []ExportContent{ContentSet, ContentSets64, ContentMembers, ContentAudience, ContentDictionary, ContentEntered, ContentLeft, ContentRecall}

// ExportManifest vouches for an export. As the beginning of one it has no
// files and is not Complete.
type ExportManifest struct {
	Version    int             `json:"version"` // ExportVersion
	Kith       string          `json:"kith"`    // the version that wrote it
	Client     ClientName      `json:"client"`
	Expr       string          `json:"expr"`              // in canonical form
	Unit       string          `json:"unit"`              // UnitIdentities or UnitUsers
	Members    bool            `json:"members,omitempty"` // of users: the tables name their members, ContentMembers is who they are
	Format     ExportFormat    `json:"format"`
	Dictionary ExportFormat    `json:"dictionary"`
	Time       time.Time       `json:"time"`
	Position   string          `json:"position"` // of the lanes' offsets
	Exact      bool            `json:"exact"`
	Partitions Answered        `json:"partitions"`
	Segments   []ExportSegment `json:"segments"`
	Lanes      []ExportLane    `json:"lanes"` // ascending
	Count      uint64          `json:"count"`
	Identities uint64          `json:"identities,omitempty"` // of users: how many identities of them are in the audience
	Below      int             `json:"below,omitempty"`      // of a delta: the audience is under this floor and shown as empty
	Since      *ExportChange   `json:"since,omitempty"`      // of a delta
	Files      []ExportFile    `json:"files"`
	Complete   bool            `json:"complete"`
}

// ExportSegment is a definition that an export was made by.
type ExportSegment struct {
	ID      SegmentID  `json:"id"`
	Version SegmentKey `json:"version"`
	Scope   string     `json:"scope"`
	When    string     `json:"when"`
}

// ExportLane is a lane's part of an export.
type ExportLane struct {
	Lane   LaneID `json:"lane"`
	Log    string `json:"log"`    // names the log that the ordinals are of: a restored node has another
	Offset Offset `json:"offset"` // the set is exactly of this
	Count  uint64 `json:"count"`
	Set    string `json:"set"`            // SHA-256 of its set's file
	Kept   int    `json:"kept,omitempty"` // files of its table that are not sent again, from the first on
}

// ExportChange is what a delta is a delta to.
type ExportChange struct {
	Time     time.Time `json:"time"`
	Position string    `json:"position"`
	Entered  uint64    `json:"entered"`
	Left     uint64    `json:"left"` // the recalled among them
	Recalled uint64    `json:"recalled"`
}

// ExportFile is one file of an export.
type ExportFile struct {
	Name    string        `json:"name"`
	Content ExportContent `json:"content"`
	Format  string        `json:"format"`         // roaring32, roaring64, parquet, arrow, csv or ndjson
	Lane    *LaneID       `json:"lane,omitempty"` // none: of all
	Rows    uint64        `json:"rows"`           // members, of a set
	Bytes   int64         `json:"bytes"`
	SHA256  string        `json:"sha256"`
}

// ReadExportManifest reads the JSON of a manifest and checks it.
func ReadExportManifest(b []byte) (ExportManifest, error) {
	var m ExportManifest
	if len(b) > ExportManifestBytesMax {
		return m, Errorf(CodeTooLarge, "the manifest has %d bytes: at most %d are read", len(b), ExportManifestBytesMax)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, Errorf(CodeCorrupt, "the manifest is not one that this kith reads: export again: %w", err)
	}
	if _, err := d.Token(); err == nil {
		return m, exportBroken("something follows it")
	}
	return m, m.Validate()
}

// Append writes the manifest as JSON.
func (m *ExportManifest) Append(b []byte) ([]byte, error) {
	buf := bytes.NewBuffer(b)
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		return b, Errorf(CodeInternal, "an export's manifest cannot be written: %w", err)
	}
	return buf.Bytes(), nil
}

func exportBroken(format string, args ...any) error {
	return Errorf(CodeCorrupt, "the manifest does not hold together: export again: %w", Errorf(CodeCorrupt, format, args...))
}

// Validate checks that the manifest holds together; of one that is complete
// and keeps nothing, that its files hold all that it counts.
func (m *ExportManifest) Validate() error {
	if m.Version != ExportVersion {
		return Errorf(CodeCorrupt, "the export has version %d, this build reads %d: use the kith that wrote it", m.Version, ExportVersion)
	}
	if err := m.checkHead(); err != nil {
		return err
	}
	if err := m.checkLanes(); err != nil {
		return err
	}
	if err := m.checkFiles(); err != nil {
		return err
	}
	if m.Complete && !slices.ContainsFunc(m.Lanes, func(l ExportLane) bool { return l.Kept > 0 }) {
		return m.checkSums()
	}
	return nil
}

func (m *ExportManifest) checkHead() error {
	if _, err := ParseClientName(string(m.Client)); err != nil {
		return exportBroken("its client's name is not valid")
	}
	if _, err := ParseExportFormat(string(m.Format)); err != nil {
		return exportBroken("its format is not known")
	}
	if _, err := ParseExportFormat(string(m.Dictionary)); (err != nil || m.Dictionary == FormatRoaring) && m.Dictionary != FormatNone {
		return exportBroken("its dictionary's format is not known")
	}
	p := m.Partitions
	switch {
	case m.Expr == "" || len(m.Expr) > 64<<10 || !utf8.ValidString(m.Expr) || len(m.Kith) > 256:
		return exportBroken("its expression is not one")
	case m.Unit != UnitIdentities && m.Unit != UnitUsers || m.Unit != UnitUsers && (m.Members || m.Identities > 0):
		return exportBroken("its unit is not known")
	case m.Members && m.Since != nil || m.Unit == UnitUsers && m.Identities < m.Count:
		return exportBroken("its users are not those of its identities")
	case m.Time.IsZero() || m.Since != nil && m.Since.Time.IsZero():
		return exportBroken("a time is missing")
	case p.Of < 1 || p.Answered < 0 || p.Answered > p.Of || p.Of > Partitions || m.Below < 0:
		return exportBroken("%d of %d partitions cannot be", p.Answered, p.Of)
	case m.Since != nil && (m.Since.Recalled > m.Since.Left || m.Since.Entered > m.Count):
		return exportBroken("its changes are more than there can be")
	}
	for _, s := range m.Segments {
		if !ValidName(string(s.ID)) {
			return exportBroken("a segment's id is not valid")
		}
	}
	return nil
}

func (m *ExportManifest) checkLanes() error {
	var sum uint64
	position := Position{}
	for i, l := range m.Lanes {
		switch {
		case l.Lane >= LanesMax || i > 0 && m.Lanes[i-1].Lane >= l.Lane:
			return exportBroken("its lanes are not ascending")
		case l.Count > 1<<32 || l.Kept < 0 || l.Kept > m.PartsOf(l.Count) || l.Log == "" || len(l.Log) > NameBytesMax:
			return exportBroken("lane %s is not valid", l.Lane)
		case !isSHA256(l.Set):
			return exportBroken("the set of lane %s has no SHA-256", l.Lane)
		}
		sum += l.Count
		position[l.Lane] = l.Offset
	}
	if sum != m.Count || position.String() != m.Position {
		return exportBroken("counts or offsets of its lanes are not those of the whole")
	}
	return nil
}

// PartRows are the rows of each file of a table but the last of its lane.
func (m *ExportManifest) PartRows() uint64 {
	if m.Members {
		return ExportUserRows
	}
	return ExportPartRows
}

// PartsOf is how many files a table of so many rows has.
func (m *ExportManifest) PartsOf(rows uint64) int {
	return int((rows + m.PartRows() - 1) / m.PartRows())
}

func (m *ExportManifest) checkFiles() error {
	if len(m.Files) > ExportFilesMax || !m.Complete && len(m.Files) > 0 {
		return exportBroken("it has %d files", len(m.Files))
	}
	seen := make(map[string]bool, len(m.Files))
	for i := range m.Files {
		f := &m.Files[i]
		if !ExportName(f.Name) || seen[f.Name] {
			return exportBroken("the name of file %d is not valid, or there twice", i)
		}
		seen[f.Name] = true
		if err := f.check(m); err != nil {
			return err
		}
	}
	return nil
}

// ExportName reports whether s may be the name of an export's file: it names
// nothing outside the folder, and neither the manifest nor a beginning.
func ExportName(s string) bool { return ValidName(s) && !strings.HasSuffix(s, ".json") }

func (f *ExportFile) check(m *ExportManifest) error {
	known := f.Lane == nil || slices.ContainsFunc(m.Lanes, func(l ExportLane) bool { return l.Lane == *f.Lane })
	switch {
	case !slices.Contains(exportContents, f.Content) || !known || (f.Lane == nil) != (f.Content == ContentSets64):
		return exportBroken("it is not said what %s holds", f.Name)
	case !slices.Contains([]string{"roaring32", "roaring64", "parquet", "arrow", "csv", "ndjson"}, f.Format):
		return exportBroken("the format of %s is not known", f.Name)
	case f.Bytes < 0 || f.Bytes > ExportFileBytesMax || f.Rows > 1<<40 || !isSHA256(f.SHA256):
		return exportBroken("size or SHA-256 of %s is not valid", f.Name)
	}
	return nil
}

// checkSums holds the files against the counts.
func (m *ExportManifest) checkSums() error {
	sets, rows := map[ExportContent]uint64{}, map[ExportContent]uint64{}
	for i := range m.Files {
		f := &m.Files[i]
		if f.Format == "roaring32" || f.Format == "roaring64" {
			sets[f.Content] += f.Rows
		} else {
			rows[f.Content] += f.Rows
		}
	}
	want := map[ExportContent]uint64{ContentSet: m.Count, ContentSets64: m.Count}
	if m.Members {
		want[ContentMembers] = m.Identities
	}
	named, table := m.Count, m.Table()
	if s := m.Since; s != nil {
		named = s.Entered
		want[ContentEntered], want[ContentLeft], want[ContentRecall] = s.Entered, s.Left, s.Recalled
	}
	for c, n := range want {
		if sets[c] != n {
			return exportBroken("%d are %s, its files hold %d", n, c, sets[c])
		}
	}
	if table != "" && rows[table] != named {
		return exportBroken("%d should be named, its files name %d", named, rows[table])
	}
	return nil
}

// Table is what the table that names identities is called, "" if there is none.
func (m *ExportManifest) Table() ExportContent {
	switch {
	case m.Format == FormatRoaring && m.Dictionary == FormatNone:
		return ""
	case m.Format == FormatRoaring:
		return ContentDictionary
	case m.Since != nil:
		return ContentEntered
	}
	return ContentAudience
}

// TableFormat is the format of its tables, FormatNone if there are none.
func (m *ExportManifest) TableFormat() ExportFormat {
	if m.Format == FormatRoaring {
		return m.Dictionary
	}
	return m.Format
}

// SetName is the name of a set's file.
func SetName(c ExportContent, l LaneID) string {
	name := string(c)
	if c == ContentSet {
		name = "lane"
	}
	return name + "-" + strconv.Itoa(int(l)) + ".roaring"
}

// Sets64Name is the name of the file of all lanes' sets.
const Sets64Name = "lanes.roaring64"

// PartName is the name of one file of a table.
func PartName(c ExportContent, l LaneID, part int, f ExportFormat) string {
	n := strconv.Itoa(part)
	return string(c) + "-" + strconv.Itoa(int(l)) + "-" + strings.Repeat("0", max(0, 5-len(n))) + n + "." + string(f)
}

func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// ExportRequest asks for an export.
type ExportRequest struct {
	Expr       string       `json:"expr"`
	Format     string       `json:"format"`
	Dictionary string       `json:"dictionary"` // with roaring: default csv, or none
	Unit       string       `json:"unit"`       // default UnitIdentities
	Members    bool         `json:"members"`    // of users: name them
	Client     string       `json:"client"`     // as ?client=
	After      string       `json:"after"`      // as ?after=
	Have       []ExportKept `json:"have"`       // what an export that broke off has already
	Since      *ExportSince `json:"since"`      // for a delta
}

// ExportKept are files of a lane's table that the caller has: they are not
// sent again while the lane's set is the same.
type ExportKept struct {
	Lane  LaneID `json:"lane"`
	Log   string `json:"log"`
	Set   string `json:"set"`
	Parts int    `json:"parts"`
}

// ExportSince is an earlier export to which a delta is wanted.
type ExportSince struct {
	Client ClientName  `json:"client"`
	Expr   string      `json:"expr"`
	Unit   string      `json:"unit,omitempty"` // of the sets; default UnitIdentities
	Time   time.Time   `json:"time"`
	Lanes  []SinceLane `json:"lanes"`
}

// SinceLane is a lane of an earlier export with its set, a portable roaring
// bitmap.
type SinceLane struct {
	Lane   LaneID `json:"lane"`
	Log    string `json:"log"`
	Offset Offset `json:"offset"`
	Set    []byte `json:"set"`
}

// Position is that of the lanes.
func (s *ExportSince) Position() Position {
	p := Position{}
	for _, l := range s.Lanes {
		p[l.Lane] = l.Offset
	}
	return p
}

// HashOf is the SHA-256 of a file that the manifest lists, "" if it does not.
func (m *ExportManifest) HashOf(name string) string {
	i := slices.IndexFunc(m.Files, func(f ExportFile) bool { return f.Name == name })
	if i < 0 {
		return ""
	}
	return m.Files[i].SHA256
}
