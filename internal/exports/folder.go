package exports

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"kith/proto"
)

// partialPrefix begins the names of an export's files that are not complete. Others
// may begin theirs with less of it, as back-ups do.
const partialPrefix = ".partial-export-"

// layoutName is of the names that the package's comment lists, but for those of
// manifests. What has another in the folder of an export is not its own.
var layoutName = regexp.MustCompile(`^(lanes\.roaring64|(lane|members|entered|left|recall)-\d+\.roaring|(audience|dictionary|entered|left|recall)-\d+-\d{5,}\.(parquet|arrow|csv|ndjson))$`)

// Folder is where an export is put. A file in it has its name when it is
// complete and synced. It belongs to one goroutine.
type Folder struct {
	dir   string
	begun *proto.ExportManifest // of the export that broke off; nil: the folder is new
	delta bool                  // what is received is one
	got   []proto.ExportFile
}

// OpenFolder makes the folder, or opens the one of an export that broke off if
// resume says so. CodeConflict if it holds anything else.
func OpenFolder(dir string, resume bool) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "cannot make the folder: %w", err)
	}
	names, _, err := namesIn(dir)
	if err != nil {
		return nil, err
	}
	f := &Folder{dir: dir}
	switch {
	case slices.Contains(names, ManifestName):
		return nil, proto.Errorf(proto.CodeConflict, "%s holds a finished export: name another folder", dir)
	case len(names) == 0:
		return f, nil
	case !slices.Contains(names, BeginName):
		return nil, proto.Errorf(proto.CodeConflict, "%s is not empty: name another folder", dir)
	}
	m, err := readManifest(filepath.Join(dir, BeginName))
	switch {
	case err != nil:
		return nil, err
	case m.Since != nil:
		return nil, proto.Errorf(proto.CodeConflict, "%s holds a delta that broke off, and a delta is begun anew: name another folder", dir)
	case !resume:
		return nil, proto.Errorf(proto.CodeConflict, "%s holds an export that broke off: pass --resume to go on with it, or name another folder", dir)
	}
	f.begun = &m
	return f, nil
}

// namesIn lists the folder, partial files apart.
func namesIn(dir string) (names, partial []string, err error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, proto.Errorf(proto.CodeInvalid, "cannot read the folder: %w", err)
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), partialPrefix) {
			partial = append(partial, e.Name())
		} else {
			names = append(names, e.Name())
		}
	}
	return names, partial, nil
}

func readManifest(path string) (m proto.ExportManifest, err error) {
	b, err := readFile(path, proto.ExportManifestBytesMax)
	if err != nil {
		return m, err
	}
	return proto.ReadExportManifest(b)
}

// readFile reads a file that has at most so many bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "cannot read a file of the export: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "cannot read a file of the export: %w", err)
	}
	if int64(len(b)) > most {
		return nil, proto.Errorf(proto.CodeTooLarge, "%s has over %d bytes", path, most)
	}
	return b, nil
}

// Have are the files that need not be sent again.
func (f *Folder) Have() []proto.ExportKept {
	if f.begun == nil || f.begun.Table() == "" {
		return nil
	}
	var have []proto.ExportKept
	for _, l := range f.begun.Lanes {
		k := proto.ExportKept{Lane: l.Lane, Log: l.Log, Set: l.Set}
		for f.holds(f.part(f.begun, l.Lane, k.Parts)) {
			k.Parts++
		}
		if k.Parts > 0 {
			have = append(have, k)
		}
	}
	return have
}

func (f *Folder) part(m *proto.ExportManifest, l proto.LaneID, n int) string {
	return proto.PartName(m.Table(), l, n, m.TableFormat())
}

func (f *Folder) holds(name string) bool {
	_, err := os.Stat(filepath.Join(f.dir, name))
	return err == nil
}

// Receive puts a stream into the folder. When it returns without error the
// export is complete and survives a power cut.
func (f *Folder) Receive(in io.Reader) (proto.ExportManifest, error) {
	r := tar.NewReader(in)
	m, err := f.next(r, BeginName)
	if err != nil {
		return m, err
	}
	f.delta = m.Since != nil
	if err := f.begin(&m); err != nil {
		return m, err
	}
	for {
		h, err := r.Next()
		if err != nil {
			return m, f.brokeOff(err)
		}
		if h.Name == ManifestName {
			break
		}
		if err := f.take(h, r); err != nil {
			return m, err
		}
	}
	m, err = f.read(r)
	if err != nil {
		return m, err
	}
	return m, f.finish(&m)
}

func (f *Folder) brokeOff(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return proto.Errorf(proto.CodeUnavailable, "the export broke off: %s: %w", f.again(), err)
}

// again says what to do about a stream that did not come whole.
func (f *Folder) again() string {
	if f.delta {
		return "a delta is begun anew: run the same again with another folder"
	}
	return "what came is kept: run the same again with --resume"
}

// next reads a manifest that must come now.
func (f *Folder) next(r *tar.Reader, name string) (m proto.ExportManifest, err error) {
	h, err := r.Next()
	if err != nil {
		return m, f.brokeOff(err)
	}
	if h.Name != name {
		return m, proto.Errorf(proto.CodeCorrupt, "the stream begins with %q: is --service the address of a kith node?", h.Name)
	}
	return f.read(r)
}

func (f *Folder) read(r io.Reader) (m proto.ExportManifest, err error) {
	b, err := io.ReadAll(io.LimitReader(r, proto.ExportManifestBytesMax+1))
	if err != nil {
		return m, f.brokeOff(err)
	}
	return proto.ReadExportManifest(b)
}

// begin makes the folder ready for what m says: of an export that broke off,
// what is not sent again stays and the rest of its files goes.
func (f *Folder) begin(m *proto.ExportManifest) error {
	if old := f.begun; old != nil {
		same := old.Client == m.Client && old.Expr == m.Expr && old.Unit == m.Unit && old.Members == m.Members && old.Format == m.Format && old.Dictionary == m.Dictionary && m.Since == nil
		if !same {
			return proto.Errorf(proto.CodeConflict, "%s holds what is left of another export, or of a delta, which is begun anew: name another folder", f.dir)
		}
	}
	keep := f.keep(m)
	names, partial, err := namesIn(f.dir)
	if err != nil {
		return err
	}
	for _, name := range append(names, partial...) {
		if layoutName.MatchString(name) && !keep[name] || strings.HasPrefix(name, partialPrefix) {
			if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
				return proto.Errorf(proto.CodeInvalid, "cannot remove what an export left: %w", err)
			}
		}
	}
	// What is kept is of the new beginning, and what is of the old is gone,
	// before it is written.
	if err := syncFolder(f.dir); err != nil {
		return err
	}
	return f.write(BeginName, m)
}

// keep are the files that m says are not sent again.
func (f *Folder) keep(m *proto.ExportManifest) map[string]bool {
	names := map[string]bool{}
	for _, l := range m.Lanes {
		for n := range l.Kept {
			names[f.part(m, l.Lane, n)] = true
		}
	}
	return names
}

// take puts a file of the stream into the folder.
func (f *Folder) take(h *tar.Header, in io.Reader) error {
	if h.Typeflag != tar.TypeReg || !proto.ExportName(h.Name) || h.Size > proto.ExportFileBytesMax || len(f.got) >= proto.ExportFilesMax {
		return proto.Errorf(proto.CodeCorrupt, "the stream holds %q, which is no file of an export", h.Name)
	}
	if f.holds(h.Name) {
		return proto.Errorf(proto.CodeCorrupt, "the stream holds %q twice", h.Name)
	}
	hash := sha256.New()
	err := f.place(h.Name, func(w io.Writer) error {
		_, err := io.Copy(io.MultiWriter(w, hash), in)
		if err != nil {
			return f.brokeOff(err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	f.got = append(f.got, proto.ExportFile{Name: h.Name, Bytes: h.Size, SHA256: hex.EncodeToString(hash.Sum(nil))})
	return nil
}

// place writes a file that has its name once it is complete and synced.
func (f *Folder) place(name string, write func(io.Writer) error) (err error) {
	file, err := os.CreateTemp(f.dir, partialPrefix+"*")
	if err != nil {
		return proto.Errorf(proto.CodeInvalid, "cannot write in that folder: %w", err)
	}
	if err = write(file); err == nil {
		err = file.Sync()
	}
	if e := file.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(file.Name(), filepath.Join(f.dir, name))
	}
	if err == nil {
		return nil
	}
	err = errors.Join(err, os.Remove(file.Name()))
	if proto.CodeOf(err) == proto.CodeInternal {
		err = proto.Errorf(proto.CodeInvalid, "cannot write %s: %w", name, err)
	}
	return err
}

func (f *Folder) write(name string, m *proto.ExportManifest) error {
	b, err := m.Append(nil)
	if err != nil {
		return err
	}
	err = f.place(name, func(w io.Writer) error { _, err := w.Write(b); return err })
	if err != nil {
		return err
	}
	return syncFolder(f.dir)
}

// finish holds what came against the manifest, adds what was kept, and makes
// the export count.
func (f *Folder) finish(m *proto.ExportManifest) error {
	if !m.Complete || len(m.Files) != len(f.got) {
		return proto.Errorf(proto.CodeCorrupt, "the manifest lists %d files, %d came: %s", len(m.Files), len(f.got), f.again())
	}
	for i, file := range f.got {
		if w := m.Files[i]; w.Name != file.Name || w.Bytes != file.Bytes || w.SHA256 != file.SHA256 {
			return proto.Errorf(proto.CodeCorrupt, "%s is not as the manifest has it: remove the folder and export again", file.Name)
		}
	}
	for i := range m.Lanes {
		if err := f.addKept(m, &m.Lanes[i]); err != nil {
			return err
		}
	}
	if err := m.Validate(); err != nil {
		return err
	}
	if err := syncFolder(f.dir); err != nil {
		return err
	}
	if err := f.write(ManifestName, m); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(f.dir, BeginName)); err != nil {
		return proto.Errorf(proto.CodeInvalid, "cannot remove %s: %w", BeginName, err)
	}
	return nil
}

// addKept lists the files of the lane that were not sent again. All but the
// last of a table are full.
func (f *Folder) addKept(m *proto.ExportManifest, l *proto.ExportLane) error {
	for n := range l.Kept {
		file := proto.ExportFile{
			Name: f.part(m, l.Lane, n), Content: m.Table(), Format: string(m.TableFormat()), Lane: &l.Lane,
			Rows: min(m.PartRows(), l.Count-uint64(n)*m.PartRows()),
		}
		var err error
		if file.Bytes, file.SHA256, err = measure(filepath.Join(f.dir, file.Name)); err != nil {
			return err
		}
		m.Files = append(m.Files, file)
	}
	l.Kept = 0
	return nil
}

// measure is the size and the SHA-256 of a file.
func measure(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", proto.Errorf(proto.CodeInvalid, "a file that was kept cannot be read: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return n, "", proto.Errorf(proto.CodeInvalid, "a file that was kept cannot be read: %w", err)
	}
	return n, hex.EncodeToString(h.Sum(nil)), nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return proto.Errorf(proto.CodeInvalid, "cannot sync the folder: %w", err)
	}
	return nil
}

// ReadSince reads what a delta by a unit needs of an earlier export: its
// manifest, by its path or its folder's, and the sets beside it. One of users
// with members has the identities of the audience too: a delta to it is by
// identities, as a delta by users could not recall members.
func ReadSince(path, unit string) (*proto.ExportSince, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, ManifestName)
	}
	m, err := readManifest(path)
	if err != nil {
		return nil, err
	}
	switch {
	case !m.Complete:
		return nil, proto.Errorf(proto.CodeInvalid, "the earlier export broke off: give the manifest.json of one that is complete")
	case m.Partitions.Answered != m.Partitions.Of:
		return nil, proto.Errorf(proto.CodeInvalid, "of the earlier export only %d of %d partitions answered: give one before it, or make a whole export", m.Partitions.Answered, m.Partitions.Of)
	}
	content, has := proto.ContentSet, m.Unit
	if m.Members {
		content, has = proto.ContentMembers, proto.UnitIdentities
	}
	if unit != has {
		return nil, proto.Errorf(proto.CodeInvalid, "a delta to this export is by %s: pass --unit %s, or make a whole export", has, has)
	}
	since := &proto.ExportSince{Client: m.Client, Expr: m.Expr, Time: m.Time}
	if unit != proto.UnitIdentities { // which older nodes know without the word
		since.Unit = unit
	}
	for _, l := range m.Lanes {
		name := proto.SetName(content, l.Lane)
		b, err := readFile(filepath.Join(filepath.Dir(path), name), SetBytesMax)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, proto.Errorf(proto.CodeInvalid, "the set of lane %s is not beside the manifest: give the manifest in its folder", l.Lane)
		}
		if err != nil {
			return nil, err
		}
		if sum(b) != m.HashOf(name) {
			return nil, proto.Errorf(proto.CodeCorrupt, "the set of lane %s is not as the manifest has it: make a whole export", l.Lane)
		}
		since.Lanes = append(since.Lanes, proto.SinceLane{Lane: l.Lane, Log: l.Log, Offset: l.Offset, Set: b})
	}
	return since, nil
}
