"""What the findings about the learning rate mean; the checks are in `schedule.py`."""

from groundup.preflight.findings import Code

SCHEDULE_CODES: dict[str, Code] = {
    code.number: code
    for code in (
        Code(
            "GU101",
            "warning",
            "The rate of a schedule is never reached",
            "A part of the schedule names a rate that no step of the run has, or the rate rises to a height that "
            "nothing after the rise keeps: the next part begins far below it and stays there. The run then trains "
            "at a fraction of the rate that the recipe speaks of, and nothing fails: the accuracy is merely lower "
            "than it could be. It happens where a warm-up and the decay after it have rates of their own, and where "
            "a phase ends a schedule that is still warming up.",
            "Give the part after the rise the rate that the rise leads to; or shorten the warm-up.",
            ("000, bugs 2 and 14",),
        ),
        Code(
            "GU102",
            "warning",
            "The rate restarts many times within an epoch",
            "Warm restarts are meant to last epochs: each cycle anneals the weights. A cycle of some steps is too "
            "short for that; the rate becomes a fast ripple, and the rate at the end of an epoch, where accuracy is "
            "measured, is a matter of chance, and so is which epoch looks best. Nearly always a number of epochs "
            "has been given as a number of steps.",
            "Write the period in epochs or as a share of the run.",
            ("000, bugs 1 and 3",),
        ),
        Code(
            "GU103",
            "warning",
            "The rate jumps",
            "From one step to the next the rate changes by more than a factor of two, and it is neither a restart "
            "nor a step down from a flat rate. A jump up to a rate that the weights have not seen undoes what a "
            "warm-up is for and can make the loss diverge; a jump down at the end of a rise throws the rise away. "
            "As a rule two parts were not fitted to one another.",
            "Let each part begin at the rate that the one before it ends with, or give it a warm-up.",
            ("000, bug 2",),
        ),
        Code(
            "GU104",
            "warning",
            "The rate rises for more than half of the run",
            "The accuracy of a run comes in the part where the rate falls. A rise that takes most of the run leaves "
            "too little for it; one that takes all of it ends where training should begin. It happens when a run is "
            "made shorter for a try, and the warm-up, counted in epochs, stays as long as it was.",
            "Write the warm-up as a share of the run, 0.1dur or less, so that it shrinks with the run.",
            ("004, bug 12",),
        ),
        Code(
            "GU105",
            "note",
            "The first updates hardly move the weights",
            "At the start the rate stays under a hundredth of its peak for more than a hundredth of the run. A "
            "warm-up may begin low, but these steps cost as much as all others and leave the weights where they "
            "are.",
            "Begin higher: a tenth to a twenty-fifth of the peak is low enough for a warm-up.",
            ("000, bug 14", "004, bug 12"),
        ),
        Code(
            "GU106",
            "warning",
            "The rate is still high when the run ends",
            "With a high rate the weights jitter about a good place without settling in it. Bringing the rate down "
            "is worth several points of accuracy, nearly all of them in the last part of the run; without it the "
            "result is also a matter of the step at which the run happens to end. An average of the weights does "
            "the same, and with one nothing is reported here. A warning where the run ends inside a cycle of "
            "restarts, or holds a constant rate with no validation split to compare it on; else a note: a constant "
            "rate may be the baseline.",
            "Let the rate fall to about zero at the end, or average the weights.",
            ("000, bugs 1 and 3", "002, bug 1"),
        ),
        Code(
            "GU107",
            "note",
            "The schedule sets the momentum, not the optimizer",
            "A schedule that cycles the momentum replaces the optimizer's own at every step: the number in the "
            "optimizer's section is not what runs. torch's OneCycleLR does it by default, so that many published "
            "runs had another momentum than they say.",
            "Switch the cycle off, or leave it on and do not quote the optimizer's momentum.",
            ("001, bug 5",),
        ),
        Code(
            "GU108",
            "warning",
            "The rate is unusual for the optimizer",
            "Optimizers work at rates of different size: SGD with momentum around 0.1, Adam and AdamW around 0.001. "
            "A rate taken over from the other kind diverges, or trains so slowly that the run ends long before it "
            "has learned what it could.",
            "SGD: 0.05 to 0.5, growing with the batch. AdamW: 0.0003 to 0.004.",
        ),
        Code(
            "GU109",
            "warning",
            "The schedule changes nothing during the whole run",
            "The recipe names a schedule that moves the rate, and the rate is the same at every step. Whatever is "
            "concluded from such a run about that schedule was measured at a constant rate.",
            "Let it fall: a final rate below the first, a cool-down longer than zero. If a constant rate is meant, "
            "name it `constant`.",
            ("002, bug 1",),
        ),
        Code(
            "GU110",
            "warning",
            "A schedule is never in force",
            "A phase, or the constant rate of an average, takes over before the first step of this schedule or "
            "part, so that its settings have no effect. What somebody changes there will change nothing.",
            "Remove it, or let what replaces it begin later.",
        ),
    )
}
