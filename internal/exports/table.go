package exports

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strconv"

	"github.com/parquet-go/parquet-go"

	"kith/proto"
)

// Row is a row of a table that names identities.
type Row struct {
	Lane     int32  `parquet:"lane" json:"lane"`
	Ordinal  int64  `parquet:"ordinal" json:"ordinal"`
	Identity string `parquet:"identity" json:"identity"`
	Kind     string `parquet:"kind,dict" json:"kind"`
}

// Number is a row of a table that does not.
type Number struct {
	Lane    int32 `parquet:"lane" json:"lane"`
	Ordinal int64 `parquet:"ordinal" json:"ordinal"`
}

var (
	rowColumns    = []string{"lane", "ordinal", "identity", "kind"}
	numberColumns = rowColumns[:2]
)

func (r *Row) fields(dst []string) []string {
	return append(dst, strconv.Itoa(int(r.Lane)), strconv.FormatInt(r.Ordinal, 10), r.Identity, r.Kind)
}

func (n *Number) fields(dst []string) []string {
	return append(dst, strconv.Itoa(int(n.Lane)), strconv.FormatInt(n.Ordinal, 10))
}

// record is a row of any table.
type record[T any] interface {
	*T
	fields(dst []string) []string
}

// writeTable writes rows to buf as one file in a format.
func writeTable[T any, P record[T]](buf *bytes.Buffer, f proto.ExportFormat, columns []string, rows []T) error {
	var err error
	switch f {
	case proto.FormatCSV:
		err = writeCSV[T, P](buf, columns, rows)
	case proto.FormatNDJSON:
		err = writeNDJSON(buf, rows)
	default:
		err = writeParquet(buf, rows)
	}
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "a table cannot be written as %s: %w", f, err)
	}
	return nil
}

// writeCSV writes RFC 4180.
func writeCSV[T any, P record[T]](buf *bytes.Buffer, columns []string, rows []T) error {
	w := csv.NewWriter(buf)
	w.UseCRLF = true
	err := w.Write(columns)
	var fields []string
	for i := 0; i < len(rows) && err == nil; i++ {
		fields = P(&rows[i]).fields(fields[:0])
		err = w.Write(fields)
	}
	w.Flush()
	if err == nil {
		err = w.Error()
	}
	return err
}

func writeNDJSON[T any](buf *bytes.Buffer, rows []T) error {
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	for i := range rows {
		if err := e.Encode(&rows[i]); err != nil {
			return err
		}
	}
	return nil
}

// writeParquet writes one row group, compressed as all readers can.
func writeParquet[T any](buf *bytes.Buffer, rows []T) error {
	w := parquet.NewGenericWriter[T](buf, parquet.Compression(&parquet.Snappy), parquet.CreatedBy("kith", strconv.Itoa(proto.ExportVersion), ""))
	if _, err := w.Write(rows); err != nil {
		return err
	}
	return w.Close()
}
