"""The patient clock goes with the time, and takes a standstill for a moment."""

from __future__ import annotations

from helpers import Clock

from shared_sync.common.clock import PatientClock


def test_the_patient_clock_goes_with_the_time() -> None:
    clock = Clock()
    patient = PatientClock(0.5, clock)
    for _ in range(8):
        clock.now += 0.25
        patient.move()
    assert patient() == 2.0


def test_the_patient_clock_takes_a_standstill_for_a_single_step() -> None:
    clock = Clock()
    patient = PatientClock(0.5, clock)
    clock.now += 3600.0
    patient.move()
    assert patient() == 0.5
