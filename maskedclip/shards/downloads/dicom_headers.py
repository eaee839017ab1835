"""Patients and eyes that the headers of DICOM files state, where the dataset states none."""

from maskedclip.data.cell_values import patient_of
from maskedclip.data.photographs.dicom import (
    DICOM_ENDINGS,
    PREAMBLE,
    has_pydicom,
    is_dicom,
    patient_and_eye,
)
from maskedclip.shards.downloads.files import ending_of
from maskedclip.shards.downloads.records import Record, Sources, eye_of

FOUND = "patients_from_dicom"  # a remark


def with_dicom_headers(sources: Sources, pattern: str) -> Sources:
    """Return the records with the PatientID and the laterality of their DICOM headers.

    Args:
        pattern: of --patient_pattern; one that is to read patients from names goes before.

    A dataset that states patients of its own has no others beside them: one person could then be
    two.
    """
    if not has_pydicom():
        return sources
    own = pattern not in ("", "none") or any(record.patient for record in sources.records)
    records, patients, of_images = [], set(), 0
    for record in sources.records:
        said, side = _header_of(record)
        patient = None if own else patient_of(said)
        if patient:
            patients.add(patient)
            of_images += 1
        records.append(
            record._replace(patient=patient or record.patient, eye=record.eye or eye_of(side))
        )
    remarks = {FOUND: [f"{len(patients)} patients of {of_images} images"]} if patients else {}
    return sources._replace(records=records, remarks=sources.remarks | remarks)


def _header_of(record: Record) -> tuple[str, str]:
    """Return patient and eye of a record's file, both "" where it is no DICOM file."""
    if ending_of(record.source) not in ("", *DICOM_ENDINGS) or not record.path.is_file():
        return "", ""  # a pipe would be waited for
    try:
        with record.path.open("rb") as file:
            head = file.read(PREAMBLE)
            file.seek(0)
            return patient_and_eye(file) if is_dicom(head) else ("", "")
    except OSError:  # the build names it
        return "", ""
