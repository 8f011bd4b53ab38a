package main

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kith/internal/ingest"
)

type ingestFlags struct {
	file, format, bots, salt string
	shift                    bool
}

func newIngestCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ingest -f FILE",
		Short: "Load events from a file or standard input",
		Long: `Loads events. Every line is either accepted by the node or refused with a reason,
and counted once: accepted + refused = lines (the header of a CSV file apart). It
returns when look-ups and counts see the events.

Formats:
  ndjson    one event object a line, as in POST /v1/events
  csv       a header row; columns event, time, identity (several: a|b), url, ref,
            ref_query, user_agent, lmt (1: the device limits ad tracking) and id;
            every other column is a property
  combined  a web server's access log. Each line is an event "page" with the
            properties path, method, status and bytes. A visitor is a keyed hash
            of address and agent; the address itself is never sent

The node derives section, browser, os, device, ref_host, search_engine and more
from url, ref and user_agent (docs/session-data.md), and marks crawlers as bot. It
stores no user agent.

Without --format it is guessed from the file's name: .ndjson, .jsonl, .csv, .log.
Every line has an id of its own, by which a load that is started again within ten
minutes counts once: for each identity its last 32 lines, those before count again.

What is compressed with gzip or zstd (.gz, .zst) is decompressed.`,
		Example: `  kith ingest -f access.log --format combined --client demo --shift --key demo-key
  zcat events.ndjson.gz | kith ingest -f - --format ndjson --key demo-key --json`,
		Args: noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	var f ingestFlags
	fileFlag(cmd, &f.file, "file", "f", "`FILE` to load, or - for standard input")
	cmd.Flags().StringVar(&f.format, "format", "", "ndjson, csv or combined")
	cmd.Flags().StringVar(&f.bots, "bots", "", "what to do with events of crawlers: keep or drop; default as the client's configuration says")
	cmd.Flags().StringVar(&f.salt, "salt", "", "`KEY` of the hash that stands for visitors of combined logs; keep it secret and the same (default a public one: whoever guesses an address and agent finds the visitor)")
	cmd.Flags().BoolVar(&f.shift, "shift", false, "move all times by whole days so that the newest falls on today (on yesterday, if its hour is still ahead)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return runIngest(cmd, c, f, *asJSON) }
	return cmd
}

func (f *ingestFlags) options(client string) (ingest.Options, error) {
	if f.file == "" {
		return ingest.Options{}, usagef("name a file to load: -f FILE, or -f - for standard input")
	}
	if f.bots != "" && f.bots != "keep" && f.bots != "drop" {
		return ingest.Options{}, usagef("--bots is %q: use keep or drop", f.bots)
	}
	if f.format == "" {
		f.format = guessFormat(f.file)
	}
	format, err := ingest.ParseFormat(f.format)
	if f.format == "" {
		return ingest.Options{}, usagef("cannot tell the format of %s: pass --format ndjson, csv or combined", f.file)
	}
	if err != nil {
		return ingest.Options{}, usageError{err}
	}
	return ingest.Options{Format: format, Client: client, Shift: f.shift, Salt: f.salt}, nil
}

func guessFormat(file string) string {
	switch path.Ext(strings.TrimSuffix(strings.TrimSuffix(file, ".gz"), ".zst")) {
	case ".ndjson", ".jsonl":
		return string(ingest.NDJSON)
	case ".csv":
		return string(ingest.CSV)
	case ".log":
		return string(ingest.Combined)
	}
	return ""
}

func runIngest(cmd *cobra.Command, c *connection, f ingestFlags, asJSON bool) error {
	o, err := f.options(c.clientName())
	if err != nil {
		return err
	}
	src, err := ingest.OpenSource(f.file, cmd.InOrStdin(), f.shift)
	if err != nil {
		return err
	}
	defer src.Close()
	to := poster{c: c, path: "/v1/events"}
	if f.bots != "" {
		to.query = url.Values{"bots": {f.bots}}
	}
	report, err := loadFile(cmd, src, to, o)
	if report.Lines == 0 && err != nil {
		return err
	}
	if err == nil {
		awaitVisible(cmd, c, report.Position)
	}
	if asJSON {
		if printErr := printJSON(cmd, report); printErr != nil {
			return printErr
		}
	} else {
		printReport(cmd, report, "lines")
	}
	return err
}

// awaitVisible returns when look-ups and counts include what was loaded. The
// node bounds the wait; the load is durable whatever comes of it.
func awaitVisible(cmd *cobra.Command, c *connection, position string) {
	if position == "" {
		return
	}
	body := map[string][]string{"identities": {"browser:position"}}
	if err := c.call(cmd.Context(), http.MethodPost, "/v1/lookup", url.Values{"after": {position}}, body, nil); err != nil {
		cmd.PrintErrln("note: the events are durable, but look-ups do not show all of them yet: " + message(err))
	}
}

// loadFile sends all rows of a file, with progress.
func loadFile(cmd *cobra.Command, src *ingest.Source, to ingest.Intake, o ingest.Options) (ingest.Report, error) {
	bar := newProgress(cmd.ErrOrStderr(), src)
	o.Progress = bar.read
	report, err := ingest.Run(cmd.Context(), src, to, o)
	bar.done()
	return report, err
}

func printReport(cmd *cobra.Command, r ingest.Report, what string) {
	rate := float64(r.Lines) / max(r.Seconds, 1e-9)
	printf(cmd, "%d %s: %d accepted, %d refused in %.1fs (%.0f/s)\n", r.Lines, what, r.Accepted, r.Refused, r.Seconds, rate)
	if r.Unsent > 0 {
		printf(cmd, "%d read but not sent\n", r.Unsent)
	}
	if r.ShiftDays != 0 {
		printf(cmd, "times moved by %+d days\n", r.ShiftDays)
	}
	printReasons(cmd, r)
}

// printReasons prints why lines were refused, with the first of each reason.
func printReasons(cmd *cobra.Command, r ingest.Report) {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, reason := range r.SortedReasons() {
		fmt.Fprintf(w, "refused %d\t%s\n", r.Reasons[reason], reason)
		for _, e := range r.Examples {
			if e.Reason == reason {
				fmt.Fprintf(w, "  line %d\t%s\n", e.Line, e.Message)
			}
		}
	}
	_ = w.Flush() // to a terminal or pipe that is gone
}
