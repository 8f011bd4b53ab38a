package main

import (
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"kith/internal/exports"
	"kith/proto"
)

// exportFlags are what `kith audience export` is told beside the expression.
type exportFlags struct {
	dir, format, dictionary, unit, since, after string
	members, resume                             bool
}

func newAudienceExportCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export EXPR -o DIR",
		Short: "Write an audience to a folder",
		Long: `Writes who is in an audience to a folder of its own, which is complete when it has a
manifest.json. Sets of numbers (roaring bitmaps) are always written; with parquet,
arrow, csv and ndjson tables with the identities too, with roaring a dictionary that
names the numbers. docs/exports.md has the layout, and recipes for reading it.

With --unit users there is one row for each user, as a count by users counts them,
under the identity that is the user's root; --members names its other identities of
the audience too.

An export that broke off is gone on with by --resume: what is complete stays if the set
of its lane is still the same, the rest is begun anew. With --since, the manifest of an
earlier export, the tables hold who has come, and by number who has left and who must
be recalled: of them nothing is held any more, because they opted out or were erased.`,
		Example: `  kith audience export 'auto & !buyers' -o today --format parquet --key demo-key
  kith audience export 'auto & !buyers' -o delta --format csv --since yesterday/manifest.json
  kith audience export auto -o people --format arrow --unit users --members`,
		Args: exactly(1, "one expression, in quotes"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	var f exportFlags
	fileFlag(cmd, &f.dir, "output", "o", "`DIR`ectory to write, new or empty")
	cmd.Flags().StringVar(&f.format, "format", string(proto.FormatCSV), "roaring, parquet, arrow, csv or ndjson")
	cmd.Flags().StringVar(&f.dictionary, "dictionary", "", "with roaring: csv (default), parquet, arrow, ndjson or none")
	unit := choiceFlag(cmd, "unit", proto.UnitIdentities, "a row for each of identities or users", proto.UnitIdentities, proto.UnitUsers)
	cmd.Flags().BoolVar(&f.members, "members", false, "with --unit users: name all identities of each in the audience")
	fileFlag(cmd, &f.since, "since", "", "earlier export's `MANIFEST`: write what has changed since")
	after := afterFlag(cmd, "include what `POSITION` names, as kith ingest gives it")
	cmd.Flags().BoolVar(&f.resume, "resume", false, "go on with an export that broke off in DIR")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.unit, f.after = *unit, *after
		m, err := c.exportAudience(cmd, args[0], f)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, m)
		}
		printExport(cmd, f.dir, &m)
		return nil
	}
	return cmd
}

func printExport(cmd *cobra.Command, dir string, m *proto.ExportManifest) {
	if m.Below > 0 {
		printf(cmd, "%s: fewer than %d are left, which this key may not see; nobody is in it\n", dir, m.Below)
	} else {
		printf(cmd, "%s: %d %s in %d files, at %s\n", dir, m.Count, m.Unit, len(m.Files), m.Position)
	}
	if s := m.Since; s != nil {
		printf(cmd, "since %s: %d entered, %d left, %d of them to be recalled\n", s.Time.Format(time.RFC3339), s.Entered, s.Left, s.Recalled)
	}
	printInexact(cmd, m.Exact, m.Partitions)
}

// exportAudience asks for the export and puts it into the folder.
func (c *connection) exportAudience(cmd *cobra.Command, expr string, f exportFlags) (m proto.ExportManifest, err error) {
	switch {
	case f.dir == "":
		return m, usagef("no folder: pass -o DIR")
	case f.resume && f.since != "":
		return m, usagef("a delta is begun anew rather than resumed: name another folder and leave --resume out")
	case f.members && (f.unit != proto.UnitUsers || f.since != ""):
		return m, usagef("members are named in whole exports by users only: pass --unit users, and leave --since out")
	}
	if _, err := proto.ParseExportFormat(f.format); err != nil {
		return m, usageError{err}
	}
	x := map[string]any{"expr": expr, "format": f.format, "dictionary": f.dictionary, "unit": f.unit, "after": f.after}
	if f.members {
		x["members"] = true
	}
	if f.since != "" {
		if x["since"], err = exports.ReadSince(f.since, f.unit); err != nil {
			return m, err
		}
	}
	folder, err := exports.OpenFolder(f.dir, f.resume)
	if err != nil {
		return m, err
	}
	if have := folder.Have(); len(have) > 0 {
		x["have"] = have
	}
	return c.receiveExport(cmd, x, folder)
}

func (c *connection) receiveExport(cmd *cobra.Command, x any, folder *exports.Folder) (m proto.ExportManifest, err error) {
	r, err := c.request(cmd.Context(), http.MethodPost, "/v1/audiences/export", nil, x)
	if err != nil {
		return m, err
	}
	resp, err := c.do(r)
	if err != nil {
		return m, err
	}
	defer resp.Body.Close()
	spin := newSpinner(cmd.ErrOrStderr(), "exporting")
	defer spin.done()
	return folder.Receive(io.TeeReader(resp.Body, turning{spin}))
}
