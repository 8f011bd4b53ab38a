package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kith/gateway"
	"kith/internal/ingest"
	"kith/proto"
)

func newImportCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "import",
		Short:   "A client's own lists and traits, from CSV files of hashes",
		Example: "  kith import audience crm.csv --segment crm --kind account --key demo-key\n  kith import traits crm.csv --key demo-key",
	})
	cmd.AddCommand(newImportAudienceCommand(c), newImportTraitsCommand(c), newImportListCommand(c), newImportDeleteCommand(c))
	return cmd
}

func importPath(id, more string) string { return "/v1/imports/" + url.PathEscape(id) + more }

// poster is where the rows of a load go.
type poster struct {
	c     *connection
	path  string
	query url.Values
}

// Post implements ingest.Intake.
func (p poster) Post(ctx context.Context, body []byte) (ingest.Answer, error) {
	return p.c.post(ctx, p.path, p.query, body)
}

const importFiles = `FILE is CSV in UTF-8 with a header (RFC 4180), plain or compressed with gzip or
zstd, or - for standard input. Rows with e-mail addresses, telephone, card or
account numbers in any column are refused: hash on your side, keyed
(docs/imports.md). Every row is accepted or refused with a reason, and counted.`

func newImportAudienceCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audience FILE --segment ID",
		Short: "A list of a client's own as a segment",
		Long: `Makes a list of identities a segment, usable like any other: in look-ups, counts,
exports and as member("ID") in rules. Those who are one person with somebody on the
list are in it too (unless --scope identity).

` + importFiles + `

Nothing changes until all rows are there: if the load breaks off, run it again.
With a client's key a list that matches fewer people than the floor (50) is not
activated.`,
		Example: `  kith import audience crm.csv --segment crm --kind account --key demo-key
  kith import audience crm.csv.zst --segment crm --replace --key demo-key
  psql -c "copy (…) to stdout csv header" | kith import audience - --segment crm --add --key demo-key`,
		Args: exactly(1, "a file, or - for standard input"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	f := audienceFlags{}
	cmd.Flags().StringVar(&f.segment, "segment", "", "`ID` of the segment")
	cmd.Flags().StringVar(&f.scope, "scope", "", "user or identity, where the segment is made (default user)")
	cmd.Flags().StringVar(&f.kind, "kind", "", "kind of bare hashes, such as account; without it cells are identities, such as account:HASH")
	cmd.Flags().StringVar(&f.column, "column", "", "`NAME` of the column (default: the only one, or identity)")
	cmd.Flags().BoolVar(&f.replace, "replace", false, "the list takes the place of the one that is there")
	cmd.Flags().BoolVar(&f.add, "add", false, "the list is added to the one that is there")
	cmd.Flags().BoolVar(&f.remove, "remove", false, "those on the list are removed from the one that is there")
	cmd.Flags().BoolVar(&f.dry, "dry-run", false, "check all rows and change nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		mode, err := f.check()
		if err != nil {
			return err
		}
		return runImportAudience(cmd, c, args[0], f, mode, *asJSON)
	}
	return cmd
}

type audienceFlags struct {
	segment, scope, kind, column string
	replace, add, remove, dry    bool
}

func (f *audienceFlags) check() (proto.ImportMode, error) {
	if _, err := proto.ParseSegmentID(f.segment); err != nil {
		return "", usagef("name the segment that the list is for: --segment ID, of 1 to 57 of A-Z a-z 0-9 _ - and dots")
	}
	mode, set := proto.ImportCreate, 0
	for m, on := range map[proto.ImportMode]bool{proto.ImportReplace: f.replace, proto.ImportAdd: f.add, proto.ImportRemove: f.remove} {
		if on {
			mode = m
			set++
		}
	}
	if set > 1 {
		return "", usagef("pass one of --replace, --add and --remove")
	}
	return mode, checkKind(f.kind)
}

func checkKind(kind string) error {
	if kind == "" {
		return nil
	}
	if _, err := proto.ParseIdentity(kind + ":a1b2c3"); err != nil {
		return usagef("--kind %q is not known: use account, stat, partner.NAME, browser, aaid or idfa", kind)
	}
	return nil
}

// audienceReport is what became of a load of a list.
type audienceReport struct {
	ingest.Report
	DryRun bool                `json:"dry_run,omitempty"`
	Import *proto.ImportStatus `json:"import,omitempty"`
}

func runImportAudience(cmd *cobra.Command, c *connection, file string, f audienceFlags, mode proto.ImportMode, asJSON bool) error {
	src, err := ingest.OpenSource(file, cmd.InOrStdin(), false)
	if err != nil {
		return err
	}
	defer src.Close()
	o := ingest.Options{Format: ingest.Identities, Columns: ingest.Columns{Identity: f.column, Kind: f.kind, Personal: gateway.PersonalCell}}
	var out audienceReport
	if out.DryRun = f.dry; f.dry {
		out.Report, err = loadFile(cmd, src, poster{c: c, path: "/v1/imports/check"}, o)
		return printAudienceReport(cmd, out, asJSON, err)
	}
	var i proto.ImportStatus
	begin := map[string]string{"segment": f.segment, "mode": string(mode), "scope": f.scope}
	if err := c.call(cmd.Context(), http.MethodPost, "/v1/imports", nil, begin, &i); err != nil {
		return err
	}
	out.Report, err = loadFile(cmd, src, poster{c: c, path: importPath(i.ID, "/rows")}, o)
	if err == nil && out.Accepted == 0 {
		err = proto.Errorf(proto.CodeInvalid, "no row was accepted: nothing was changed")
	}
	if err != nil {
		c.giveUpImport(cmd, i.ID)
		return printAudienceReport(cmd, out, asJSON, err)
	}
	i, err = c.commitImport(cmd, i.ID)
	if i.ID != "" {
		out.Import = &i
	}
	return printAudienceReport(cmd, out, asJSON, err)
}

// giveUpImport ends an import that will not be committed. If that fails too, the
// next one of the segment or the end of the day does it.
func (c *connection) giveUpImport(cmd *cobra.Command, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 5*time.Second)
	defer cancel()
	if err := c.call(ctx, http.MethodDelete, importPath(id, ""), nil, nil, nil); err != nil {
		cmd.PrintErrln("note: import " + id + " stays open: " + message(err))
	}
}

// commitImport has an import judged and waits until it came to its end.
func (c *connection) commitImport(cmd *cobra.Command, id string) (i proto.ImportStatus, err error) {
	spin := newSpinner(cmd.ErrOrStderr(), "matching")
	defer spin.done()
	for again := 0; ; {
		err = c.call(cmd.Context(), http.MethodPost, importPath(id, "/commit"), nil, nil, &i)
		switch {
		case err != nil && again < 10 && ingest.Retryable(proto.CodeOf(err)): // asked twice it is committed once
			again++
		case err != nil:
			return i, err
		case i.State == proto.ImportDone.String():
			return i, nil
		case i.State != proto.ImportSealed.String() && i.State != proto.ImportMerging.String():
			return i, proto.Errorf(proto.CodeConflict, "the import was given up: %s", cmp.Or(i.Reason, i.State))
		}
		spin.turn()
		if err := ingest.Sleep(cmd.Context(), time.Second); err != nil {
			return i, err
		}
	}
}

// printAudienceReport prints what became of a load, and gives its error on.
func printAudienceReport(cmd *cobra.Command, r audienceReport, asJSON bool, err error) error {
	if asJSON {
		return errors.Join(err, printJSON(cmd, r))
	}
	if r.Lines == 0 && err != nil {
		return err
	}
	printReport(cmd, r.Report, "rows")
	i := r.Import
	switch {
	case r.DryRun:
		printf(cmd, "nothing was changed\n")
	case i == nil || err != nil:
	case i.Rate == nil:
		printf(cmd, "segment %s has the list\n", i.Segment)
	default:
		about := ""
		if i.Rounded > 0 {
			about = "about "
		}
		printf(cmd, "segment %s has the list: %s%d of %d identities (%.0f %%) are known otherwise\n", i.Segment, about, *i.Matched, *i.Identities, 100**i.Rate)
	}
	return err
}

func newImportTraitsCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "traits FILE",
		Short: "Traits of identities from a client's own file",
		Long: `Sets traits of identities: a column of identities, and a column for each trait. Empty
cells leave a trait as it is. Rules compare them as trait("NAME").

` + importFiles,
		Example: `  kith import traits crm.csv --key demo-key
  kith import traits crm.csv --identity-column hash --kind account --map plz=zip,seg=tier --key demo-key`,
		Args: exactly(1, "a file, or - for standard input"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	var columns ingest.Columns
	var pairs []string
	cmd.Flags().StringVar(&columns.Identity, "identity-column", "", "`NAME` of the column of identities (default identity)")
	cmd.Flags().StringVar(&columns.Kind, "kind", "", "kind of bare hashes, such as account; without it cells are identities, such as account:HASH")
	cmd.Flags().StringSliceVar(&pairs, "map", nil, "columns that are traits, as `COLUMN=TRAIT` (default: each, under its own name)")
	dry := cmd.Flags().Bool("dry-run", false, "check all rows and change nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkKind(columns.Kind); err != nil {
			return err
		}
		var err error
		if columns.Traits, err = traitColumns(pairs); err != nil {
			return err
		}
		columns.Personal = gateway.PersonalCell
		return runImportTraits(cmd, c, args[0], columns, *dry, *asJSON)
	}
	return cmd
}

func traitColumns(pairs []string) (list []ingest.Column, err error) {
	for _, p := range pairs {
		name, trait, ok := strings.Cut(p, "=")
		if !ok || name == "" || trait == "" {
			return nil, usagef("--map %q is not COLUMN=TRAIT", p)
		}
		list = append(list, ingest.Column{Name: name, Trait: trait})
	}
	return list, nil
}

func runImportTraits(cmd *cobra.Command, c *connection, file string, columns ingest.Columns, dry, asJSON bool) error {
	src, err := ingest.OpenSource(file, cmd.InOrStdin(), false)
	if err != nil {
		return err
	}
	defer src.Close()
	to := poster{c: c, path: "/v1/traits"}
	if dry {
		to.query = url.Values{"dry_run": {"true"}}
	}
	r, err := loadFile(cmd, src, to, ingest.Options{Format: ingest.Traits, Columns: columns})
	if err == nil && !dry {
		awaitVisible(cmd, c, r.Position)
	}
	return printAudienceReport(cmd, audienceReport{Report: r, DryRun: dry}, asJSON, err)
}

func newImportListCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "The client's imports, newest first",
		Example: "  kith import list --key demo-key --json",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var out struct {
			Imports []proto.ImportStatus `json:"imports"`
		}
		if err := c.call(cmd.Context(), http.MethodGet, "/v1/imports", nil, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tSEGMENT\tMODE\tSTATE\tOPENED")
		for _, i := range out.Imports {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.ID, i.Segment, i.Mode, i.State, i.Opened.Format(time.RFC3339Nano))
		}
		return w.Flush()
	}
	return cmd
}

func newImportDeleteCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete ID",
		Short:   "Give an import up that was not committed",
		Long:    "Gives an import up that was not committed. A list that answers goes with its segment:\nkith segments delete.",
		Example: "  kith import delete 4711 --key demo-key",
		Args:    exactly(1, "an import's number"),
	}
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.call(cmd.Context(), http.MethodDelete, importPath(args[0], ""), nil, nil, nil); err != nil {
			return err
		}
		printf(cmd, "deleted import %s\n", args[0])
		return nil
	}
	return cmd
}
