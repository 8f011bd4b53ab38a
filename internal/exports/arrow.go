package exports

import (
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// arrowFields are the columns of a table with all of them; none is ever null.
var arrowFields = []arrow.Field{
	{Name: "lane", Type: arrow.PrimitiveTypes.Int32},
	{Name: "ordinal", Type: arrow.PrimitiveTypes.Int64},
	{Name: "identity", Type: arrow.BinaryTypes.String},
	{Name: "kind", Type: arrow.BinaryTypes.String},
	{Name: "members", Type: arrow.ListOfNonNullable(arrow.BinaryTypes.String)},
	{Name: "member_ids", Type: arrow.ListOfNonNullable(arrow.PrimitiveTypes.Int64)},
}

// arrowScratch are columns that a part does not have in Arrow's form.
type arrowScratch struct {
	lanes    []int32
	ordinals []int64
	kinds    texts
}

// writeArrow writes an Arrow IPC file with one record batch, uncompressed, as
// all readers can map it.
func (p *part) writeArrow() error {
	columns := p.arrowColumns()
	schema := arrow.NewSchema(arrowFields[:len(columns)], nil)
	batch := array.NewRecordBatch(schema, columns, int64(len(p.ordinals)))
	w, err := ipc.NewFileWriter(&p.buf, ipc.WithSchema(schema))
	if err != nil {
		return err
	}
	if err := w.Write(batch); err != nil {
		return err
	}
	return w.Close()
}

// arrowColumns are the part's columns, in its own memory.
func (p *part) arrowColumns() []arrow.Array {
	s, n := &p.scratch.arrow, len(p.ordinals)
	s.lanes = slices.Grow(s.lanes[:0], n)
	s.ordinals = slices.Grow(s.ordinals[:0], n)
	for _, o := range p.ordinals {
		s.lanes = append(s.lanes, int32(p.lane))
		s.ordinals = append(s.ordinals, int64(o))
	}
	list := []arrow.Array{
		array.NewInt32Data(column(arrow.PrimitiveTypes.Int32, n, arrow.Int32Traits.CastToBytes(s.lanes))),
		array.NewInt64Data(column(arrow.PrimitiveTypes.Int64, n, arrow.Int64Traits.CastToBytes(s.ordinals))),
	}
	if !p.named {
		return list
	}
	s.kinds.reset()
	for i := range n {
		s.kinds.add(kindOf(p.names.at(i)))
	}
	list = append(list, array.NewStringData(textColumn(&p.names)), array.NewStringData(textColumn(&s.kinds)))
	if p.lists() {
		m := p.members
		ids := column(arrow.PrimitiveTypes.Int64, len(m.ids), arrow.Int64Traits.CastToBytes(m.ids))
		list = append(list, m.lists(arrowFields[4].Type, textColumn(&m.names)), m.lists(arrowFields[5].Type, ids))
	}
	return list
}

// column is n values in memory that is lent, of which none is null.
func column(t arrow.DataType, n int, data ...[]byte) *array.Data {
	buffers := []*memory.Buffer{nil}
	for _, b := range data {
		buffers = append(buffers, memory.NewBufferBytes(b))
	}
	return array.NewData(t, n, buffers, nil, 0, 0)
}

func textColumn(x *texts) *array.Data {
	return column(arrow.BinaryTypes.String, len(x.bounds)-1, arrow.Int32Traits.CastToBytes(x.bounds), x.all)
}

// lists is a column of lists of values.
func (m *memberLists) lists(t arrow.DataType, values *array.Data) *array.List {
	bounds := memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(m.bounds))
	return array.NewListData(array.NewData(t, len(m.bounds)-1, []*memory.Buffer{nil, bounds}, []arrow.ArrayData{values}, 0, 0))
}
