"""Sections of a report on learning: training curves and confusion matrices."""

from __future__ import annotations

from multispike.report.axes import add_line, canvas, heat_map
from multispike.report.comparison import Comparison
from multispike.report.document import Column, Content, Json, Plot, Table, percent, row_of

_LABELLED = 12  # classes up to which every cell of a confusion matrix carries its number
_MISTAKES = 25  # rows of the table where there are more classes


def training(data: Comparison) -> Content:
    """Test accuracy and training loss by epoch."""
    if not data.histories:
        return Content(["No metrics.csv was found in the runs' folders."])
    plots = [
        _curve(data, "test_accuracy", "Test accuracy by epoch", "test accuracy, %", 100),
        _curve(data, "train_loss", "Training loss by epoch", "training loss (cross-entropy)", 1),
    ]
    keys = [data.marks[name].key() for name in data.histories]
    return Content(legend=keys, plots=plots)


def _curve(data: Comparison, key: str, title: str, axis: str, factor: float) -> Plot:
    figure = canvas("epoch", axis, 340)
    spec = ".2f" if factor == 100 else ".4f"
    histories = {
        name: {int(row["epoch"]): factor * row[key] for row in rows}
        for name, rows in data.histories.items()
    }
    for name, history in histories.items():
        add_line(
            figure,
            data.marks[name],
            list(history),
            list(history.values()),
            f"epoch %{{x}}: %{{y:{spec}}}",
            points=len(history) <= 40,
        )
    longest = max(map(len, histories.values()))
    figure.update_xaxes(tickformat="d", dtick=1 if longest <= 12 else None)
    last = []
    for name, history in histories.items():
        first, end = history[min(history)], history[max(history)]
        last.append(f"{name} {first:{spec}} to {end:{spec}}")
    epochs = sorted({epoch for history in histories.values() for epoch in history})
    table = Table(
        (Column("epoch", "d"), *(Column(name, spec) for name in histories)),
        [(epoch, *(history.get(epoch) for history in histories.values())) for epoch in epochs],
        title,
    )
    return Plot(title, figure, f"First to last epoch: {'; '.join(last)}.", table)


def confusion(data: Comparison) -> Content:
    """One matrix a run: for images of each class, the share given to each class."""
    with_matrix = [run for run in data.runs if run.get("confusion")]
    if not with_matrix:
        return Content(["These results hold no confusion matrix."])
    text = "Rows are true classes; every row adds up to 100 %."
    plots = [_matrix(run) for run in with_matrix]
    return Content([text], plots=plots, plot_width=row_of(len(plots)))


def _matrix(run: Json) -> Plot:
    counts: list[list[int]] = run["confusion"]
    names = class_names(run)
    shares = [[cell / max(sum(row), 1) for cell in row] for row in counts]
    few = len(names) <= _LABELLED
    text = [[f"{cell:,}" if cell else "" for cell in row] for row in counts] if few else None
    figure = heat_map(shares, names, text, 400)
    mistakes = sorted(
        (
            (count, names[true], names[predicted], shares[true][predicted])
            for true, row in enumerate(counts)
            for predicted, count in enumerate(row)
            if count and true != predicted
        ),
        reverse=True,
    )
    if few:
        table = Table(
            (Column("true class"), *(Column(name, ",d") for name in names)),
            [(name, *row) for name, row in zip(names, counts, strict=True)],
            f"{run['name']}: images by true class (rows) and predicted class (columns)",
        )
    else:
        table = Table(
            (
                Column("true class"),
                Column("predicted class"),
                Column("images", ",d"),
                Column("share of the true class", ".1%"),
            ),
            [
                (true, predicted, count, share)
                for count, true, predicted, share in mistakes[:_MISTAKES]
            ],
            f"{run['name']}: the {min(_MISTAKES, len(mistakes))} most frequent mistakes",
        )
    summary = f"{percent(run['accuracy'])} right."
    if mistakes:
        count, true, predicted, _ = mistakes[0]
        worst = min(range(len(names)), key=lambda index: shares[index][index])
        summary += (
            f" Most frequent mistake: {true} taken for {predicted} ({count:,}×)."
            f" Hardest class: {names[worst]}, {shares[worst][worst]:.0%} right."
        )
    return Plot(f"{run['name']}: confusion matrix", figure, summary, table)


def class_names(run: Json) -> list[str]:
    """The classes' names, or their numbers where the result has none for each."""
    names, count = run.get("classes", []), len(run["confusion"])
    return list(names) if len(names) == count else [str(number) for number in range(count)]
