"""Fields for where is computed: signals out, setters in, no decisions."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QSizePolicy

from napari_prosma.widgets.fields import Fold, button, combo, note_label, row, say
from prosma_core.printable import plain

PLACE_TOOLTIP = (
    "This computer, or workers of Dask distributed, on this computer or others. A scan in memory is computed by one "
    "worker; one that is larger than memory is shared out among all."
)
ADDRESS_TOOLTIP = (
    "A Dask scheduler (tcp://HOST:8786, or tls://), the scheduler.json that it wrote, or local:2 for two workers "
    "started on this computer for each run. A scheduler runs any code that is sent to it, as the user who started it: "
    "use one that only you reach, or TLS with the certificates of Dask's own configuration. It is contacted when Test "
    "or the main button is clicked, at no other time."
)
TEST_TOOLTIP = (
    "Connect to the workers and compare versions; see whether they read the scan's file and load the model. Nothing is "
    "computed."
)


class WorkersFields(Fold):
    """Where is computed, the address of the workers, and a test of them."""

    place_chosen = Signal(bool)
    address_chosen = Signal(str)
    test_clicked = Signal()

    def __init__(self) -> None:
        super().__init__("Compute on")
        self.problem = note_label("problem")
        self._place = combo(PLACE_TOOLTIP)
        self._place.setObjectName("compute_on")
        for text, workers in (("This computer", False), ("Dask workers", True)):
            self._place.addItem(text, workers)
        self._place.activated.connect(lambda _: self.place_chosen.emit(self._place.currentData()))
        self._address = QLineEdit()
        self._address.setObjectName("workers_address")
        self._address.setPlaceholderText("tcp://HOST:8786")
        self._address.setToolTip(plain(ADDRESS_TOOLTIP))
        self._address.editingFinished.connect(lambda: self.address_chosen.emit(self._address.text().strip()))
        self._test = button("Test", TEST_TOOLTIP, self.test_clicked)
        self._test.setObjectName("workers_test")
        self._test.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)  # below the field
        self._found = note_label("facts")
        self._found.setObjectName("workers_found")
        self._wrong = note_label("problem")
        self._wrong.setObjectName("workers_wrong")
        self._of_workers = (row("Address", self._address), row("", self._test))
        self._test.setAccessibleName("Test the workers")
        self._place.setAccessibleName("Compute on")
        self.add(row("Where", self._place), *self._of_workers, self.problem, self._found, self._wrong)

    def show_place(self, workers: bool, address: str) -> None:
        """Show the choice; address and test only where workers compute."""
        self._place.setCurrentIndex(self._place.findData(workers))
        for line in self._of_workers:
            line.setVisible(workers)
        if not self._address.hasFocus():
            self._address.setText(address)
            self._address.setToolTip(plain(f"{address}\n{ADDRESS_TOOLTIP}" if address else ADDRESS_TOOLTIP))
        self.show_title(f"Compute on: {'Dask workers' if workers else 'this computer'}")

    def show_test(self, text: str, *, enabled: bool) -> None:
        """The button that tests."""
        self._test.setText(text)
        self._test.setEnabled(enabled)

    def show_found(self, text: str, *, problem: bool) -> None:
        """What a test has found, empty where there was none; `problem`: that they cannot be used."""
        say(self._found, "" if problem else text)
        say(self._wrong, text if problem else "")
